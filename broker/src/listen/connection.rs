//! One task per connection: reads frames, begins requests, sends the responses in order.
//!
//! The first stage of a request starts strictly after that of the previous one. Requests that have
//! begun form a queue whose head is answered next, so responses leave in order (O2) whatever the
//! order of their completion. Only pipelined requests share the queue; any other request is in it
//! alone.
//!
//! While requests are in progress the connection reads ahead a little, to detect that the client
//! disconnects: a parked request (long poll, join) is then dropped, every other one runs to its
//! end.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesOrdered;
use futures_util::{FutureExt, StreamExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use crate::limits;
use crate::listen::frame::{Frames, ReadOutcome};
use crate::listen::metrics::Metrics;
use crate::listen::outbox::Outbox;
use crate::listen::{
    Answer, Close, Lane, Lanes, Options, Peer, Permit, Reply, Request, Service, Share, Turn,
};

/// The shared state of all connections of a listener.
#[derive(Debug, Clone)]
pub(super) struct ConnectionContext {
    pub(super) service: Arc<dyn Service>,
    pub(super) lanes: Lanes,
    pub(super) options: Arc<Options>,
    pub(super) metrics: Metrics,
}

/// The state of one connection.
pub(super) struct Connection {
    shared: ConnectionContext,
    peer: Arc<Peer>,
    stream: TcpStream,
    frames: Frames,
    /// A parsed request that waits for its turn.
    next: Option<NextRequest>,
    /// The request whose first stage runs.
    beginning: Option<NextRequest>,
    in_progress: FuturesOrdered<ActiveRequest>,
    under_way_bytes: usize,
    /// The turn of the requests in progress, which is the same for all.
    turn: Turn,
    outbox: Outbox,
    /// Whether responses are discarded from here on.
    muted: bool,
    /// Why reading stopped; requests that have begun are still answered.
    ended: Option<Close>,
    last_active: Instant,
}

struct NextRequest {
    turn: Turn,
    lane: Lane,
    begin: BoxFuture<'static, Result<Answer, Close>>,
    size_bytes: usize,
    /// The share acquired while the frame was read, and later for the request.
    permit: Permit,
    /// Receives the permit once it is acquired in full.
    share: Share,
    is_paid: bool,
}

/// A request that has begun. Its share of the budget is returned when it is answered, unless its
/// handler holds it longer.
struct ActiveRequest {
    answer: Answer,
    size_bytes: usize,
    _share: Share,
}

struct FinishedRequest {
    reply: Reply,
    size_bytes: usize,
}

impl Future for ActiveRequest {
    type Output = Result<FinishedRequest, Close>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = ready!(self.answer.as_mut().poll(cx));
        Poll::Ready(answer.map(|reply| FinishedRequest { reply, size_bytes: self.size_bytes }))
    }
}

enum Event {
    Began(Result<Answer, Close>),
    Answered(Result<FinishedRequest, Close>),
    Read(Result<ReadOutcome, Close>),
    Stop(Close),
    Timer,
}

impl Connection {
    pub(super) fn new(shared: ConnectionContext, peer: Arc<Peer>, stream: TcpStream) -> Self {
        let frames =
            Frames::new(shared.lanes.clone(), Arc::clone(&shared.service), &shared.options);
        Self {
            shared,
            peer,
            stream,
            frames,
            next: None,
            beginning: None,
            in_progress: FuturesOrdered::new(),
            under_way_bytes: 0,
            turn: Turn::Pipelined,
            outbox: Outbox::default(),
            muted: false,
            ended: None,
            last_active: Instant::now(),
        }
    }

    /// Serves the connection and returns why it ended. `stop` resolves with the reason why the
    /// broker ends it.
    pub(super) async fn run(mut self, stop: impl Future<Output = Close> + Send) -> Close {
        let mut stop = std::pin::pin!(stop.fuse());
        // One timer, reset when it fires or must fire earlier, not with every request.
        let mut timer = std::pin::pin!(tokio::time::sleep_until(self.due()));
        loop {
            if self.peer.order.is_ended() {
                self.end(Close::OutOfOrder);
            }
            self.begin_next();
            if self.is_quiet()
                && let Some(close) = self.ended.take()
            {
                return close;
            }
            let due = self.due();
            if due < timer.deadline() {
                timer.as_mut().reset(due);
            }
            let event = tokio::select! {
                biased;
                event = self.event() => event,
                why = stop.as_mut() => Event::Stop(why),
                () = timer.as_mut() => Event::Timer,
            };
            if let Err(close) = self.handle(event, timer.as_mut()).await {
                return close;
            }
        }
    }

    /// Begins the next request if its turn has come.
    fn begin_next(&mut self) {
        while self.beginning.is_none() && (self.next.is_some() || self.recognise()) {
            let Some(next) = &self.next else { return };
            if next.turn == Turn::Parked && self.ended.is_some() {
                // The client does not wait for it, and the order of later responses could not be
                // kept.
                self.next = None;
                self.muted = true;
                continue;
            }
            // While a request that must be alone is in progress, the next frame is not even parsed.
            if !self.in_progress.is_empty() && next.turn != Turn::Pipelined {
                return;
            }
            self.turn = next.turn;
            self.beginning = self.next.take();
        }
    }

    /// Parses the next frame, if there is one and the bounds allow it. Returns whether it did.
    fn recognise(&mut self) -> bool {
        if self.is_at_bound() {
            return false;
        }
        let Some(frame) = self.frames.pop() else { return false };
        let size_bytes = frame.bytes.len();
        self.shared.metrics.received_bytes.inc_by(size_bytes as u64);
        let share = self.shared.lanes.share();
        match self.shared.service.accept(&self.peer, frame.bytes, share.clone()) {
            Ok(Request { turn, lane, begin }) => {
                let permit = frame.permit;
                self.next = Some(NextRequest {
                    turn,
                    lane,
                    begin,
                    size_bytes,
                    permit,
                    share,
                    is_paid: false,
                });
                true
            }
            Err(close) => {
                self.end(close);
                false
            }
        }
    }

    /// Waits for the next event. Cancel safe.
    async fn event(&mut self) -> Event {
        // Even while complete frames wait for their turn, the connection reads on a little to
        // detect that the client disconnects.
        let may_read = self.ended.is_none()
            && (!self.frames.has_whole()
                || self.frames.buffered_bytes() < limits::READ_AHEAD_BYTES_MAX);
        let Self { beginning, in_progress, frames, stream, shared, .. } = self;
        tokio::select! {
            biased;
            began = begun(beginning, &shared.lanes), if beginning.is_some() => Event::Began(began),
            Some(done) = in_progress.next(), if !in_progress.is_empty() => Event::Answered(done),
            outcome = frames.read(stream), if may_read => Event::Read(outcome),
            else => std::future::pending().await,
        }
    }

    async fn handle(&mut self, event: Event, timer: Pin<&mut Sleep>) -> Result<(), Close> {
        match event {
            Event::Began(began) => {
                let begun = self.beginning.take();
                match (began, begun) {
                    (Ok(answer), Some(NextRequest { size_bytes, share, .. })) => {
                        self.under_way_bytes += size_bytes;
                        let in_progress = ActiveRequest { answer, size_bytes, _share: share };
                        self.in_progress.push_back(in_progress);
                    }
                    (Err(close), _) => self.end(close),
                    (Ok(_), None) => unreachable!("only a request in its first stage can begin"),
                }
            }
            Event::Answered(done) => self.answer(done?).await?,
            Event::Read(Ok(ReadOutcome::Some)) => self.last_active = Instant::now(),
            Event::Read(Ok(ReadOutcome::End)) => self.end_disconnected(Close::Gone),
            Event::Read(Err(Close::Socket(error))) => {
                self.muted = true;
                self.end_disconnected(Close::Socket(error));
            }
            // Frames that were complete before the bad frame are answered.
            Event::Read(Err(close)) => self.end_disconnected(close),
            Event::Stop(why) => {
                self.drop_parked();
                self.end(why);
            }
            Event::Timer => self.check_time(timer)?,
        }
        Ok(())
    }

    /// Sends a response, and the ones after it that are ready.
    async fn answer(&mut self, first: FinishedRequest) -> Result<(), Close> {
        let mut failed = None;
        self.take(first);
        while self.outbox.is_open()
            && self.outbox.size_bytes() < limits::GATHER_BYTES_MAX
            && let Some(Some(next)) = self.in_progress.next().now_or_never()
        {
            match next {
                Ok(done) => self.take(done),
                Err(close) => {
                    failed = Some(close);
                    break;
                }
            }
        }
        self.outbox.flush(&self.stream, self.shared.options.write_time_max).await?;
        self.last_active = Instant::now();
        self.frames.resume(self.last_active);
        failed.map_or(Ok(()), Err)
    }

    fn take(&mut self, done: FinishedRequest) {
        self.under_way_bytes -= done.size_bytes;
        if !self.muted {
            let before = self.outbox.size_bytes();
            self.outbox.push(done.reply);
            let size_bytes = self.outbox.size_bytes() - before;
            self.shared.metrics.sent_bytes.inc_by(size_bytes as u64);
        }
    }

    /// Stops reading and beginning requests; requests that have begun are answered.
    fn end(&mut self, close: Close) {
        self.frames.clear();
        self.next = None;
        self.ended.get_or_insert(close);
    }

    /// Handles a disconnected client: requests that it sent before are still carried out, because a
    /// producer with acks=0 may disconnect right after sending.
    fn end_disconnected(&mut self, close: Close) {
        self.drop_parked();
        self.ended.get_or_insert(close);
    }

    fn drop_parked(&mut self) {
        if self.turn == Turn::Parked && !self.is_quiet() {
            self.beginning = None;
            self.in_progress.clear();
            self.under_way_bytes = 0;
            self.muted = true;
        }
    }

    fn check_time(&mut self, timer: Pin<&mut Sleep>) -> Result<(), Close> {
        let now = Instant::now();
        let due = self.due();
        if now < due {
            timer.reset(due);
            return Ok(());
        }
        Err(if self.frames.due().is_some() { Close::FrameTooSlow } else { Close::Idle })
    }

    /// The deadline of the connection: of an incomplete frame, or of the idle timeout.
    fn due(&self) -> Instant {
        let idle_due = self.last_active + self.shared.options.idle_max;
        if !self.is_quiet() || self.ended.is_some() {
            return Instant::now() + self.shared.options.idle_max;
        }
        self.frames.due().unwrap_or(idle_due)
    }

    /// Whether every request that has begun is answered.
    fn is_quiet(&self) -> bool {
        self.beginning.is_none() && self.in_progress.is_empty() && self.next.is_none()
    }

    fn is_at_bound(&self) -> bool {
        self.in_progress.len() >= limits::REQUESTS_IN_FLIGHT_MAX
            || self.under_way_bytes >= limits::CONNECTION_BYTES_IN_FLIGHT_MAX
            || self.turn != Turn::Pipelined && !self.in_progress.is_empty()
    }
}

/// Waits for the request's share of its budget, then for its first stage. Cancel safe.
async fn begun(beginning: &mut Option<NextRequest>, lanes: &Lanes) -> Result<Answer, Close> {
    let Some(next) = beginning else { return std::future::pending().await };
    if !next.is_paid {
        let budget = lanes.of(next.lane, next.size_bytes);
        // The share of another budget, acquired while the frame was read in pieces, is returned
        // before waiting for this one.
        if !std::ptr::eq(budget, lanes.to_read(next.size_bytes)) {
            next.permit = Permit::default();
        }
        if next.permit.is_empty() {
            budget.extend(&mut next.permit, next.size_bytes).await;
        }
        next.share.put(std::mem::take(&mut next.permit));
        next.is_paid = true;
    }
    next.begin.as_mut().await
}
