//! One task per connection: reads frames, begins requests, sends the answers in order.
//!
//! A request is *begun* (its first stage) strictly after the one before it. Those that have begun
//! stand in a queue whose head is answered next, so answers leave in order (O2) however they come.
//! Pipelined requests stand there together; any other stands there alone.
//!
//! While requests are under way a little is read ahead, which is how the end of the client is
//! noticed: a parked request (long poll, join) is then dropped, everything else runs to its end.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesOrdered;
use futures_util::{FutureExt, StreamExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use crate::limits;
use crate::listen::frame::{Fill, Frames};
use crate::listen::metrics::Metrics;
use crate::listen::outbox::Outbox;
use crate::listen::{
    Answer, Close, Lane, Lanes, Options, Peer, Permit, Reply, Request, Service, Share, Turn,
};

/// What all connections of a listener have in common.
#[derive(Debug, Clone)]
pub(super) struct Shared {
    pub(super) service: Arc<dyn Service>,
    pub(super) lanes: Lanes,
    pub(super) options: Arc<Options>,
    pub(super) metrics: Metrics,
}

/// A connection that is being served.
pub(super) struct Connection {
    shared: Shared,
    peer: Arc<Peer>,
    stream: TcpStream,
    frames: Frames,
    /// Recognised, and waiting for its turn.
    next: Option<Next>,
    /// In its first stage.
    beginning: Option<Next>,
    under_way: FuturesOrdered<UnderWay>,
    under_way_bytes: usize,
    /// The turn of what is under way; all alike.
    turn: Turn,
    outbox: Outbox,
    /// Nobody listens to what is answered from here on.
    muted: bool,
    /// Why no more is read; what has begun is still answered.
    ended: Option<Close>,
    last_active: Instant,
}

struct Next {
    turn: Turn,
    lane: Lane,
    begin: BoxFuture<'static, Result<Answer, Close>>,
    size_bytes: usize,
    /// What was acquired while the frame was read, and then for the request.
    permit: Permit,
    /// Where the permit goes when all of it is acquired.
    share: Share,
    is_paid: bool,
}

/// A request that has begun. It gives its share of the budget back when it is answered, unless its
/// handler holds it for longer.
struct UnderWay {
    answer: Answer,
    size_bytes: usize,
    _share: Share,
}

struct Done {
    reply: Reply,
    size_bytes: usize,
}

impl Future for UnderWay {
    type Output = Result<Done, Close>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = ready!(self.answer.as_mut().poll(cx));
        Poll::Ready(answer.map(|reply| Done { reply, size_bytes: self.size_bytes }))
    }
}

enum Event {
    Began(Result<Answer, Close>),
    Answered(Result<Done, Close>),
    Read(Result<Fill, Close>),
    Stop,
    Timer,
}

impl Connection {
    pub(super) fn new(shared: Shared, peer: Arc<Peer>, stream: TcpStream) -> Self {
        let frames =
            Frames::new(shared.lanes.clone(), Arc::clone(&shared.service), &shared.options);
        Self {
            shared,
            peer,
            stream,
            frames,
            next: None,
            beginning: None,
            under_way: FuturesOrdered::new(),
            under_way_bytes: 0,
            turn: Turn::Pipelined,
            outbox: Outbox::default(),
            muted: false,
            ended: None,
            last_active: Instant::now(),
        }
    }

    /// Serves it to its end and says why it ended. `stop` resolves when the broker stops.
    pub(super) async fn run(mut self, stop: impl Future<Output = ()> + Send) -> Close {
        let mut stop = std::pin::pin!(stop.fuse());
        // One timer, moved when it fires or must fire earlier, not with every request.
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
                () = stop.as_mut() => Event::Stop,
                () = timer.as_mut() => Event::Timer,
            };
            if let Err(close) = self.handle(event, timer.as_mut()).await {
                return close;
            }
        }
    }

    /// Begins what may begin now.
    fn begin_next(&mut self) {
        while self.beginning.is_none() && (self.next.is_some() || self.recognise()) {
            let Some(next) = &self.next else { return };
            if next.turn == Turn::Parked && self.ended.is_some() {
                // Nobody waits for it, and whatever follows it could no longer be told apart.
                self.next = None;
                self.muted = true;
                continue;
            }
            // Beside one that is alone it would not even have been recognised.
            if !self.under_way.is_empty() && next.turn != Turn::Pipelined {
                return;
            }
            self.turn = next.turn;
            self.beginning = self.next.take();
        }
    }

    /// Takes the next frame, if there is one and the bounds allow; whether it did.
    fn recognise(&mut self) -> bool {
        if self.is_at_bound() {
            return false;
        }
        let Some(frame) = self.frames.pop() else { return false };
        let size_bytes = frame.bytes.len();
        self.shared.metrics.received_bytes.inc_by(size_bytes as u64);
        let share = Share::default();
        match self.shared.service.accept(&self.peer, frame.bytes, share.clone()) {
            Ok(Request { turn, lane, begin }) => {
                let permit = frame.permit;
                self.next =
                    Some(Next { turn, lane, begin, size_bytes, permit, share, is_paid: false });
                true
            }
            Err(close) => {
                self.end(close);
                false
            }
        }
    }

    /// Waits for the next thing to happen. Cancelling it loses nothing.
    async fn event(&mut self) -> Event {
        // Whole frames that are still here wait for their turn: read on a little all the same, to
        // see the end of the client.
        let may_read = self.ended.is_none()
            && (!self.frames.has_whole()
                || self.frames.buffered_bytes() < limits::READ_AHEAD_BYTES_MAX);
        let Self { beginning, under_way, frames, stream, shared, .. } = self;
        tokio::select! {
            biased;
            began = begun(beginning, &shared.lanes), if beginning.is_some() => Event::Began(began),
            Some(done) = under_way.next(), if !under_way.is_empty() => Event::Answered(done),
            fill = frames.fill(stream), if may_read => Event::Read(fill),
            else => std::future::pending().await,
        }
    }

    async fn handle(&mut self, event: Event, timer: Pin<&mut Sleep>) -> Result<(), Close> {
        match event {
            Event::Began(began) => {
                let begun = self.beginning.take();
                match (began, begun) {
                    (Ok(answer), Some(Next { size_bytes, share, .. })) => {
                        self.under_way_bytes += size_bytes;
                        let under_way = UnderWay { answer, size_bytes, _share: share };
                        self.under_way.push_back(under_way);
                    }
                    (Err(close), _) => self.end(close),
                    (Ok(_), None) => unreachable!("only a request in its first stage can begin"),
                }
            }
            Event::Answered(done) => self.answer(done?).await?,
            Event::Read(Ok(Fill::Some)) => self.last_active = Instant::now(),
            Event::Read(Ok(Fill::End)) => self.lose(Close::Gone),
            Event::Read(Err(Close::Socket(error))) => {
                self.muted = true;
                self.lose(Close::Socket(error));
            }
            // What came whole before the bad frame is answered.
            Event::Read(Err(close)) => self.lose(close),
            Event::Stop => {
                self.drop_parked();
                self.end(Close::Stopping);
            }
            Event::Timer => self.check_time(timer)?,
        }
        Ok(())
    }

    /// Sends an answer, and those behind it that are there as well.
    async fn answer(&mut self, first: Done) -> Result<(), Close> {
        let mut failed = None;
        self.take(first);
        while self.outbox.size_bytes() < limits::GATHER_BYTES_MAX
            && let Some(Some(next)) = self.under_way.next().now_or_never()
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

    fn take(&mut self, done: Done) {
        self.under_way_bytes -= done.size_bytes;
        if !self.muted {
            let before = self.outbox.size_bytes();
            self.outbox.push(done.reply);
            let size_bytes = self.outbox.size_bytes() - before;
            self.shared.metrics.sent_bytes.inc_by(size_bytes as u64);
        }
    }

    /// Nothing more is read or begun; what has begun is answered.
    fn end(&mut self, close: Close) {
        self.frames.clear();
        self.next = None;
        self.ended.get_or_insert(close);
    }

    /// The client is gone, but what it sent before is still carried out: a producer with acks=0 may
    /// well send and go.
    fn lose(&mut self, close: Close) {
        self.drop_parked();
        self.ended.get_or_insert(close);
    }

    fn drop_parked(&mut self) {
        if self.turn == Turn::Parked && !self.is_quiet() {
            self.beginning = None;
            self.under_way.clear();
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

    /// When the client's patience with us ends: a frame that is not whole, or long silence.
    fn due(&self) -> Instant {
        let idle_due = self.last_active + self.shared.options.idle_max;
        if !self.is_quiet() || self.ended.is_some() {
            return Instant::now() + self.shared.options.idle_max;
        }
        self.frames.due().unwrap_or(idle_due)
    }

    /// Nothing has begun that is not answered.
    fn is_quiet(&self) -> bool {
        self.beginning.is_none() && self.under_way.is_empty() && self.next.is_none()
    }

    fn is_at_bound(&self) -> bool {
        self.under_way.len() >= limits::REQUESTS_IN_FLIGHT_MAX
            || self.under_way_bytes >= limits::CONNECTION_BYTES_IN_FLIGHT_MAX
            || self.turn != Turn::Pipelined && !self.under_way.is_empty()
    }
}

/// Waits for the request's share of its budget, then for its first stage. Cancelling it loses nothing.
async fn begun(beginning: &mut Option<Next>, lanes: &Lanes) -> Result<Answer, Close> {
    let Some(next) = beginning else { return std::future::pending().await };
    if !next.is_paid {
        let budget = lanes.of(next.lane, next.size_bytes);
        // What was read in pieces under another budget is given back before this one is waited for.
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
