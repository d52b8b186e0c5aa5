//! Guarantees of every disk: the tests run on the real disk and on the simulated one.

use std::io::{self, IoSlice};
use std::path::Path;

use ropewalk_disk::{Aligned, Disk, Open, Options, RealDisk, SimDisk};

fn on_every_disk(test: impl Fn(&dyn Disk, &Path)) {
    // The temporary directory may be in memory; files in /var/tmp survive a restart (FHS 3.0,
    // 5.15).
    //
    let real = tempfile::tempdir_in("/var/tmp").expect("a temporary directory");
    test(&RealDisk::new(Options::default()), real.path());
    let sim = SimDisk::new(0);
    let dir = Path::new("/sim");
    sim.create_dir_all(dir).expect("an empty simulated disk");
    test(&sim, dir);
}

#[test]
fn a_file_gives_back_what_was_written() {
    on_every_disk(|disk, dir| {
        let path = dir.join("file");
        let file = disk.open(&path, Open::CreateNew).unwrap();
        file.write_all_at(b"hello", 3).unwrap();
        let bufs = [&b" "[..], b"", b"wor", b"ld"].map(IoSlice::new);
        file.write_vectored_all_at(&bufs, 8).unwrap();
        file.sync("test").unwrap();
        assert_eq!(file.len().unwrap(), 14);
        let mut read = [0xff; 14];
        disk.open(&path, Open::Read).unwrap().read_exact_at(&mut read, 0).unwrap();
        assert_eq!(&read, b"\0\0\0hello world");
        let error = file.read_exact_at(&mut read, 1).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(disk.sync_counts()["test"], 1);
    });
}

#[test]
fn many_buffers_are_written_in_order() {
    on_every_disk(|disk, dir| {
        let file = disk.open(&dir.join("file"), Open::CreateNew).unwrap();
        let pieces: Vec<[u8; 2]> = (0..3000_u16).map(u16::to_be_bytes).collect();
        let bufs: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
        file.write_vectored_all_at(&bufs, 0).unwrap();
        let mut read = vec![0; 6000];
        file.read_exact_at(&mut read, 0).unwrap();
        assert_eq!(read, pieces.concat());
    });
}

#[test]
fn opening_follows_the_mode() {
    on_every_disk(|disk, dir| {
        let path = dir.join("file");
        for how in [Open::Read, Open::ReadWrite, Open::Durable] {
            assert_eq!(disk.open(&path, how).unwrap_err().kind(), io::ErrorKind::NotFound);
        }
        disk.open(&path, Open::CreateNew).unwrap().write_all_at(b"x", 0).unwrap();
        let again = disk.open(&path, Open::CreateNew).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
        assert!(disk.open(&path, Open::Read).unwrap().write_all_at(b"y", 0).is_err());
        assert_eq!(disk.open(&path, Open::ReadWrite).unwrap().len().unwrap(), 1);
        assert!(disk.open(&path, Open::CreateOrTruncate).unwrap().is_empty().unwrap());
    });
}

#[test]
fn names_are_listed_renamed_and_removed() {
    on_every_disk(|disk, dir| {
        disk.create_dir_all(&dir.join("b/c")).unwrap();
        let again = disk.create_dir(&dir.join("b")).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
        let nowhere = disk.create_dir(&dir.join("none/d")).unwrap_err();
        assert_eq!(nowhere.kind(), io::ErrorKind::NotFound);
        disk.create_dir(&dir.join("b/d")).unwrap();
        assert_eq!(disk.list(&dir.join("b")).unwrap(), ["c", "d"]);
        disk.write_back(dir);
        disk.open(&dir.join("z"), Open::CreateNew).unwrap();
        disk.open(&dir.join("a"), Open::CreateNew).unwrap();
        assert_eq!(disk.list(dir).unwrap(), ["a", "b", "z"]);
        disk.rename(&dir.join("z"), &dir.join("a")).unwrap();
        disk.sync_dir(dir, "test").unwrap();
        assert_eq!(disk.list(dir).unwrap(), ["a", "b"]);
        disk.remove(&dir.join("a")).unwrap();
        assert!(!disk.exists(&dir.join("a")).unwrap());
        assert!(disk.exists(&dir.join("b/c")).unwrap());
        assert_eq!(disk.list(&dir.join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
        let gone = disk.rename(&dir.join("z"), &dir.join("y")).unwrap_err();
        assert_eq!(gone.kind(), io::ErrorKind::NotFound);
    });
}

#[test]
fn a_lock_is_held_once() {
    on_every_disk(|disk, dir| {
        let path = dir.join("lock");
        let lock = disk.lock(&path).unwrap();
        assert_eq!(disk.lock(&path).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(lock);
        disk.lock(&path).unwrap();
    });
}

#[test]
fn preallocation_overwrites_with_zeroes_through_either_way() {
    on_every_disk(|disk, dir| {
        let path = dir.join("file");
        for (how, len) in [(Open::Durable, 3 << 20), (Open::Durable, 5000), (Open::ReadWrite, 5000)]
        {
            let file = disk.open(&path, Open::CreateOrTruncate).unwrap();
            file.write_all_at(&[7; 6000], 0).unwrap();
            drop(file);
            disk.open(&path, how).unwrap().preallocate(len, &mut |_| {}).unwrap();
            let file = disk.open(&path, Open::Read).unwrap();
            assert_eq!(file.len().unwrap(), len);
            let mut read = vec![1; usize::try_from(len).unwrap()];
            file.read_exact_at(&mut read, 0).unwrap();
            assert!(read.iter().all(|byte| *byte == 0), "{how:?} {len}");
        }
    });
}

#[test]
fn a_preallocated_file_takes_durable_writes() {
    on_every_disk(|disk, dir| {
        let path = dir.join("file");
        disk.open(&path, Open::CreateNew).unwrap().preallocate(3 << 20, &mut |_| {}).unwrap();
        let file = disk.open(&path, Open::Durable).unwrap();
        assert_eq!(file.len().unwrap(), 3 << 20);
        let mut block = Aligned::with_capacity(8192);
        block.extend_from_slice(&[5; 8192]);
        file.write_durable_at(&block, 4096, "test").unwrap();
        let mut read = [0; 16_384];
        file.read_exact_at(&mut read, 0).unwrap();
        assert!(read[..4096].iter().chain(&read[12_288..]).all(|byte| *byte == 0));
        assert_eq!(read[4096..12_288], [5; 8192]);
        assert!(disk.free_bytes(dir).unwrap() > 0);
    });
}
