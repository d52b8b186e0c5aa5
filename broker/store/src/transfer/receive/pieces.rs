//! What is asked for next, and where the bytes of an answer go.

use std::sync::Arc;

use bytes::Bytes;
use ropewalk_segment::copy::{self, CopiedIndex};

use super::{Incoming, State};
use crate::limits;
use crate::transfer::check::{LogCheck, Verdict};
use crate::transfer::incoming::{IncomingFiles, ReceiveError};
use crate::transfer::manifest::{List, Manifest, Received, SegmentOf, SetFile};
use crate::transfer::message::{Fetch, Item, Offer};
use crate::transfer::verify::{is_whole, or_damaged};

/// The file that is being fetched.
#[derive(Debug)]
pub(super) struct Cursor {
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
    /// The next piece of the set; `None` if all of it is there.
    pub(super) fn next_fetch(&mut self) -> Result<Option<Fetch>, ReceiveError> {
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
    pub(super) fn take_piece(&mut self, of: &Fetch, bytes: &Bytes) -> Result<(), ReceiveError> {
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
            State::Asking { .. } | State::Verifying(_) | State::Complete | State::Full { .. } => {
                Ok(())
            }
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
