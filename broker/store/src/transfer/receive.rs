//! The reception of one shard: what is asked for next, and what is done with the answer.
//!
//! # Invariants
//!
//! - **R1** one question is not answered at any time, so one piece is in memory.
//! - The manifest on the disk never says more than what is durable.
//! - Nothing is asked for while the disk is full.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use ropewalk_segment::copy::{self, CopiedIndex};
use ropewalk_shard::ShardId;

use super::Options;
use super::check::{LogCheck, Verdict};
use super::incoming::{IncomingFiles, ReceiveError};
use super::limit::TokenBucket;
use super::manifest::{List, Manifest, Received, SegmentOf, SetFile};
use super::message::{Body, Fetch, Item, Message, Offer, SetId, StopReason};
use super::verify::{Verification, is_whole, or_damaged};
use crate::limits;
use crate::store::Store;
use crate::work::{Next, WorkError};

/// The reception of one shard.
#[derive(Debug)]
pub(super) struct Incoming {
    store: Arc<Store>,
    options: Options,
    pub(super) shard: ShardId,
    /// Raft id of the replica that receives.
    pub(super) replica: u64,
    /// Raft id of the replica that sends.
    pub(super) peer: u64,
    pub(super) files: IncomingFiles,
    pub(super) manifest: Option<Manifest>,
    state: State,
    unsynced_bytes: u64,
    /// How often received bytes were not what they should be.
    pub(super) refused: u64,
}

#[derive(Debug)]
enum State {
    /// No set. The next question is due at this time.
    Asking { due_ms: i64 },
    /// The list of the offered set is fetched.
    Listing { offer: Offer, list: BytesMut, asked: Option<Asked> },
    /// The files of the set are fetched.
    Fetching { cursor: Option<Cursor>, asked: Option<Asked> },
    /// Everything is there, and is read once more.
    Verifying(Verification),
    /// It can be installed.
    Complete,
    /// The disk is full. It is looked at again at this time.
    Full { due_ms: i64 },
}

/// A question that is not answered.
#[derive(Debug, Clone, Copy)]
struct Asked {
    fetch: Fetch,
    at_ms: i64,
}

/// The file that is being fetched.
#[derive(Debug)]
struct Cursor {
    number: usize,
    part: Part,
}

#[derive(Debug)]
enum Part {
    /// The index of a segment, up to this position.
    Index(u64),
    /// The log of a segment.
    Log(LogCheck),
    /// A whole file, up to this position.
    Whole(u64),
}

impl Incoming {
    /// Begins a reception, or continues the one that an earlier process began.
    pub(super) fn new(
        store: &Arc<Store>,
        options: Options,
        shard: ShardId,
        replica: u64,
        peer: u64,
    ) -> Result<Self, WorkError> {
        let mut files = IncomingFiles::new(store.data(), shard);
        let mut manifest = files.load()?;
        if manifest.as_ref().is_some_and(|found| found.replica != replica) {
            files.abandon(manifest.take().as_ref())?;
        }
        Ok(Self {
            store: Arc::clone(store),
            options,
            shard,
            replica,
            peer,
            files,
            manifest,
            state: State::Asking { due_ms: i64::MIN },
            unsynced_bytes: 0,
            refused: 0,
        })
    }

    pub(super) fn is_complete(&self) -> bool {
        matches!(self.state, State::Complete)
    }

    /// Bytes of what is kept in memory between two calls, besides the list of the files.
    pub(super) fn memory_bytes(&self) -> usize {
        match &self.state {
            State::Listing { list, .. } => list.capacity(),
            _ => 0,
        }
    }

    /// Asks another replica from now on.
    pub(super) fn set_peer(&mut self, peer: u64) {
        let is_done = matches!(self.state, State::Verifying(_) | State::Complete);
        if self.peer != peer && !is_done {
            self.peer = peer;
            self.ask_at(i64::MIN);
        }
    }

    fn message(&self, body: Body) -> Message {
        Message { shard: self.shard, from: self.replica, to: self.peer, body }
    }

    fn ask_at(&mut self, due_ms: i64) {
        self.state = State::Asking { due_ms };
    }

    /// Handles a message of a sender. Messages to send are added to `out`.
    pub(super) fn handle(
        &mut self,
        message: &Message,
        now_ms: i64,
        out: &mut Vec<Message>,
    ) -> Result<(), WorkError> {
        match &message.body {
            Body::Offer(offer) => {
                if !matches!(self.state, State::Verifying(_) | State::Complete) {
                    self.peer = message.from;
                }
                let taken = self.take_offer(offer, now_ms);
                self.settle(taken, offer.set, now_ms, out)
            }
            Body::Piece { of, bytes } => {
                let taken = self.take_piece(of, bytes);
                self.settle(taken, of.set, now_ms, out)
            }
            Body::Expired { set } => {
                if self.set() == Some(*set) && self.fetches() {
                    self.ask_at(now_ms);
                }
                Ok(())
            }
            Body::Wait | Body::Want | Body::Fetch(_) | Body::Stop { .. } => Ok(()),
        }
    }

    /// Does one piece of work.
    pub(super) fn step(
        &mut self,
        bucket: &mut TokenBucket,
        now_ms: i64,
        out: &mut Vec<Message>,
    ) -> Result<Next, WorkError> {
        match &mut self.state {
            State::Asking { due_ms } => {
                if *due_ms <= now_ms {
                    *due_ms = now_ms.saturating_add(limits::TRANSFER_RETRY_MS);
                    out.push(self.message(Body::Want));
                }
                Ok(Next::Wait)
            }
            State::Full { due_ms } => {
                if *due_ms <= now_ms {
                    let due_ms = now_ms.saturating_add(limits::TRANSFER_RETRY_MS);
                    self.state = State::Full { due_ms };
                    if self.has_space() {
                        self.ask_at(now_ms);
                        return Ok(Next::Now);
                    }
                }
                Ok(Next::Wait)
            }
            State::Listing { asked, .. } | State::Fetching { asked, .. } => {
                let waits = asked.is_some_and(|asked| {
                    now_ms.saturating_sub(asked.at_ms) < limits::TRANSFER_RETRY_MS
                });
                if waits {
                    return Ok(Next::Wait);
                }
                let asked = self.ask_next(bucket, now_ms, out);
                let set = self.set().unwrap_or(SetId { replica: 0, number: 0 });
                self.settle(asked, set, now_ms, out).map(|()| Next::Wait)
            }
            State::Verifying(_) => {
                let verified = self.verify_next();
                let set = self.set().unwrap_or(SetId { replica: 0, number: 0 });
                self.settle(verified, set, now_ms, out).map(|()| Next::Now)
            }
            State::Complete => Ok(Next::Wait),
        }
    }

    /// The set that is being fetched.
    fn set(&self) -> Option<SetId> {
        match &self.state {
            State::Listing { offer, .. } => Some(offer.set),
            _ => self.manifest.as_ref().map(|manifest| manifest.list.set),
        }
    }

    fn fetches(&self) -> bool {
        matches!(self.state, State::Listing { .. } | State::Fetching { .. })
    }

    /// Ends the set after a failure.
    fn settle(
        &mut self,
        done: Result<(), ReceiveError>,
        set: SetId,
        now_ms: i64,
        out: &mut Vec<Message>,
    ) -> Result<(), WorkError> {
        let due_ms = now_ms.saturating_add(limits::TRANSFER_RETRY_MS);
        let reason = match done {
            Ok(()) => return Ok(()),
            Err(ReceiveError::Full) => {
                tracing::warn!(shard = %self.shard, "disk is full: a transfer waits for space");
                self.state = State::Full { due_ms };
                StopReason::Full
            }
            Err(ReceiveError::Damaged(what)) => {
                tracing::error!(shard = %self.shard, from = self.peer, what, "what another broker sent is refused");
                self.refused += 1;
                self.ask_at(due_ms);
                StopReason::Damaged
            }
            Err(ReceiveError::Work(error)) => {
                self.ask_at(due_ms);
                return Err(error);
            }
        };
        out.push(self.message(Body::Stop { set, reason }));
        Ok(())
    }

    fn take_offer(&mut self, offer: &Offer, now_ms: i64) -> Result<(), ReceiveError> {
        match &self.state {
            State::Verifying(_) | State::Complete => return Ok(()),
            State::Full { due_ms } if *due_ms > now_ms => return Err(ReceiveError::Full),
            _ if self.set() == Some(offer.set) && self.fetches() => return Ok(()),
            _ => {}
        }
        let known =
            self.manifest.as_ref().map(|manifest| (manifest.list.set, manifest.missing_bytes()));
        match known {
            Some((set, bytes)) if set == offer.set => {
                self.check_space(bytes)?;
                self.state = State::Fetching { cursor: None, asked: None };
            }
            // How much of it is there already is known when its list is.
            Some(_) | None => {
                self.check_space(offer.list_bytes)?;
                let (offer, list) = (offer.clone(), BytesMut::new());
                self.state = State::Listing { offer, list, asked: None };
            }
        }
        Ok(())
    }

    fn check_space(&self, bytes: u64) -> Result<(), ReceiveError> {
        let data = self.store.data();
        // If the free space is unknown, a failing write will show that the disk is full.
        let Ok(free_bytes) = data.disk().free_bytes(data.root()) else { return Ok(()) };
        let least = self.options.disk_free_bytes_min.saturating_add(bytes);
        if free_bytes < least { Err(ReceiveError::Full) } else { Ok(()) }
    }

    fn has_space(&self) -> bool {
        let bytes = self.manifest.as_ref().map_or(0, Manifest::missing_bytes);
        self.check_space(bytes).is_ok()
    }

    /// Asks for the next piece, if the rate allows it.
    fn ask_next(
        &mut self,
        bucket: &mut TokenBucket,
        now_ms: i64,
        out: &mut Vec<Message>,
    ) -> Result<(), ReceiveError> {
        let Some(fetch) = self.next_fetch()? else {
            self.save()?;
            self.state = State::Verifying(Verification::default());
            return Ok(());
        };
        if !bucket.take(u64::from(fetch.length_bytes), now_ms) {
            return Ok(());
        }
        out.push(self.message(Body::Fetch(fetch)));
        if let State::Listing { asked, .. } | State::Fetching { asked, .. } = &mut self.state {
            *asked = Some(Asked { fetch, at_ms: now_ms });
        }
        Ok(())
    }

    /// The next piece of the set; `None` if all of it is there.
    fn next_fetch(&mut self) -> Result<Option<Fetch>, ReceiveError> {
        let piece_bytes_max = self.options.piece_bytes_max.min(limits::TRANSFER_PIECE_BYTES_MAX);
        let range = |set, item, position_bytes, bytes: u64| {
            let length = bytes.saturating_sub(position_bytes);
            let length_bytes = length.min(u64::from(piece_bytes_max)) as u32;
            Some(Fetch { set, item, position_bytes, length_bytes })
        };
        if let State::Listing { offer, list, .. } = &self.state {
            return Ok(range(offer.set, Item::List, list.len() as u64, offer.list_bytes));
        }
        loop {
            let manifest = self.manifest.as_ref().expect("a set is fetched");
            let State::Fetching { cursor, .. } = &mut self.state else { return Ok(None) };
            if cursor.is_none() {
                let Some(number) = manifest.missing() else { return Ok(None) };
                match begin(&self.files, manifest, number)? {
                    Begin::At(part) => *cursor = Some(Cursor { number, part }),
                    Begin::End => {
                        self.finish_log(number)?;
                        continue;
                    }
                    Begin::NoIndex => {
                        self.received(number).has_index = false;
                        continue;
                    }
                }
            }
            let Some(Cursor { number, part }) = cursor else { continue };
            let (set, file) = (manifest.list.set, &manifest.list.files[*number]);
            let at = u32::try_from(*number).expect("a list is bounded");
            return Ok(match (part, file) {
                (Part::Index(position), SetFile::Segment(of)) => {
                    range(set, Item::Index(at), *position, of.index_bytes)
                }
                (Part::Log(check), _) => {
                    range(set, Item::File(at), check.position_bytes(), file.content_bytes())
                }
                (Part::Whole(position) | Part::Index(position), _) => {
                    range(set, Item::File(at), *position, file.content_bytes())
                }
            });
        }
    }

    /// Takes a piece, if it is the one that was asked for.
    fn take_piece(&mut self, of: &Fetch, bytes: &Bytes) -> Result<(), ReceiveError> {
        let (State::Listing { asked, .. } | State::Fetching { asked, .. }) = &mut self.state else {
            return Ok(());
        };
        let is_answer = asked.is_some_and(|asked| asked.fetch == *of);
        if !is_answer || bytes.len() != of.length_bytes as usize {
            return Ok(()); // Late or repeated.
        }
        *asked = None;
        match &mut self.state {
            State::Listing { offer, list, .. } => {
                list.extend_from_slice(bytes);
                if list.len() as u64 >= offer.list_bytes {
                    let list = std::mem::take(list).freeze();
                    let offer = offer.clone();
                    return self.take_list(&offer, &list);
                }
                Ok(())
            }
            State::Fetching { cursor, .. } => {
                let Some(cursor) = cursor.take() else { return Ok(()) };
                self.unsynced_bytes += bytes.len() as u64;
                self.take_part(cursor, bytes)?;
                if self.unsynced_bytes >= self.options.unsynced_bytes_max
                    || self.files.unsynced() >= limits::TRANSFER_UNSYNCED_FILES_MAX
                {
                    self.save()?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Begins to fetch the files of a set whose list is complete.
    fn take_list(&mut self, offer: &Offer, bytes: &[u8]) -> Result<(), ReceiveError> {
        let damaged = |what: &str| ReceiveError::Damaged(format!("the list of the files: {what}"));
        if copy::sum_of(bytes) != offer.list_sum {
            return Err(damaged("its checksum does not match"));
        }
        let list = List::decode(bytes).map_err(|error| damaged(&error.to_string()))?;
        let is_offered = list.set == offer.set && list.last() == offer.last;
        if !is_offered || list.shard != self.shard {
            return Err(damaged("it belongs to another set"));
        }
        // What was written since the last save is kept too, after its sync.
        let older = self.manifest.take();
        let incarnation = || self.store.next_incarnation();
        let manifest = Manifest::new(self.replica, list, older.as_ref(), incarnation);
        let bytes = manifest.missing_bytes();
        self.manifest = Some(manifest);
        self.save()?;
        self.check_space(bytes)?;
        self.state = State::Fetching { cursor: None, asked: None };
        Ok(())
    }

    /// Writes a piece of the file at the cursor.
    fn take_part(&mut self, cursor: Cursor, bytes: &[u8]) -> Result<(), ReceiveError> {
        let manifest = self.manifest.as_ref().expect("a set is fetched");
        let Cursor { number, part } = cursor;
        let file = manifest.list.files[number];
        let part = match (part, file) {
            (Part::Index(position), SetFile::Segment(of)) => {
                let (_, fetched) = self.files.index(manifest, &of);
                self.files.write(&fetched, bytes, position)?;
                let position = position + bytes.len() as u64;
                if position == of.index_bytes {
                    return self.finish_index(number, &of);
                }
                Part::Index(position)
            }
            (Part::Log(mut check), _) => {
                let path = self.files.content(manifest, &file);
                let at = check.position_bytes();
                self.files.write(&path, bytes, at)?;
                let verdict = check.feed(bytes)?;
                self.received(number).bytes = check.verified_bytes();
                if verdict == Verdict::Bad {
                    let at = check.verified_bytes();
                    let what = format!("{} is damaged at byte {at}", path.display());
                    return Err(ReceiveError::Damaged(what));
                }
                if check.verified_bytes() == file.content_bytes() {
                    return self.finish_log(number);
                }
                Part::Log(check)
            }
            (Part::Whole(position) | Part::Index(position), _) => {
                let path = self.files.content(manifest, &file);
                self.files.write(&path, bytes, position)?;
                let position = position + bytes.len() as u64;
                self.received(number).bytes = position;
                if position == file.content_bytes() {
                    return self.finish_whole(number, &file);
                }
                Part::Whole(position)
            }
        };
        self.state = State::Fetching { cursor: Some(Cursor { number, part }), asked: None };
        Ok(())
    }

    fn received(&mut self, number: usize) -> &mut Received {
        &mut self.manifest.as_mut().expect("a set is fetched").received[number]
    }

    /// Puts an index that is complete at its place, and keeps the blocks of the log that are there
    /// already.
    fn finish_index(&mut self, number: usize, of: &SegmentOf) -> Result<(), ReceiveError> {
        let manifest = self.manifest.as_ref().expect("a set is fetched");
        let (path, fetched) = self.files.index(manifest, of);
        self.files.set_len(&fetched, of.index_bytes)?;
        let disk = Arc::clone(self.store.data().disk());
        if copy::sum(&*disk, &fetched, of.index_bytes)? != of.index_sum {
            let what = format!("{} has another checksum", fetched.display());
            return Err(ReceiveError::Damaged(what));
        }
        let new = CopiedIndex::open_at(&*disk, fetched.clone(), of.base_offset, None)?;
        let old = CopiedIndex::open_at(&*disk, path.clone(), of.base_offset, None);
        let common = old.map_or(Ok(0), |old| new.common_bytes(&old))?;
        self.files.rename(&fetched, &path)?;
        let received = self.received(number);
        let bytes = received.bytes.min(common).min(of.log_bytes);
        *received = Received { has_index: true, bytes };
        if bytes == of.log_bytes {
            return self.finish_log(number);
        }
        self.state = State::Fetching { cursor: None, asked: None };
        Ok(())
    }

    /// Cuts what an older set had behind the end of a log.
    fn finish_log(&mut self, number: usize) -> Result<(), ReceiveError> {
        let manifest = self.manifest.as_ref().expect("a set is fetched");
        let file = manifest.list.files[number];
        let path = self.files.content(manifest, &file);
        self.files.set_len(&path, file.content_bytes())?;
        self.received(number).bytes = file.content_bytes();
        self.state = State::Fetching { cursor: None, asked: None };
        Ok(())
    }

    fn finish_whole(&mut self, number: usize, file: &SetFile) -> Result<(), ReceiveError> {
        let manifest = self.manifest.as_ref().expect("a set is fetched");
        let path = self.files.content(manifest, file);
        self.files.set_len(&path, file.content_bytes())?;
        let disk = self.store.data().disk();
        if !is_whole(&**disk, &path, file)? {
            self.received(number).bytes = 0;
            let what = format!("{} has another checksum", path.display());
            return Err(ReceiveError::Damaged(what));
        }
        self.state = State::Fetching { cursor: None, asked: None };
        Ok(())
    }

    /// Makes what was received durable, and the manifest.
    fn save(&mut self) -> Result<(), ReceiveError> {
        if let Some(manifest) = &self.manifest {
            self.files.save(manifest)?;
            self.unsynced_bytes = 0;
            if self.fetches() {
                self.check_space(0)?;
            }
        }
        Ok(())
    }

    /// Verifies the next piece. What is damaged is fetched again.
    fn verify_next(&mut self) -> Result<(), ReceiveError> {
        let State::Verifying(verification) = &mut self.state else { return Ok(()) };
        let manifest = self.manifest.as_mut().expect("a set is verified");
        if verification.step(&self.files, manifest, self.options.piece_bytes_max)? {
            return Ok(());
        }
        self.refused += verification.damaged();
        self.state = match manifest.missing() {
            Some(_) => State::Fetching { cursor: None, asked: None },
            None => State::Complete,
        };
        Ok(())
    }
}

/// Where a file is continued.
enum Begin {
    At(Part),
    /// Only the length of the log may be wrong.
    End,
    /// The index of the segment is damaged on the disk of this broker.
    NoIndex,
}

fn begin(files: &IncomingFiles, manifest: &Manifest, number: usize) -> Result<Begin, ReceiveError> {
    let received = manifest.received[number];
    Ok(match &manifest.list.files[number] {
        SetFile::Snapshot { .. } | SetFile::Spill { .. } => Begin::At(Part::Whole(received.bytes)),
        SetFile::Segment(_) if !received.has_index => Begin::At(Part::Index(0)),
        SetFile::Segment(of) => {
            let dir = files.partition(manifest, of);
            let opened = LogCheck::open(&**files.data().disk(), &dir, of, received.bytes);
            match or_damaged(opened)? {
                None => Begin::NoIndex,
                Some(check) if check.position_bytes() >= of.log_bytes => Begin::End,
                Some(check) => Begin::At(Part::Log(check)),
            }
        }
    })
}
