//! Tests of the simulated disk: results of a crash, and the guarantees of every operation.

use super::*;

fn open_new(disk: &SimDisk, path: &str) -> Arc<dyn File> {
    disk.create_dir_all(Path::new("/d")).unwrap();
    disk.open(Path::new(path), Open::CreateNew).unwrap()
}

fn sync_dir(disk: &SimDisk) {
    disk.sync_dir(Path::new("/d"), "names").unwrap();
}

#[test]
fn what_is_synced_survives_and_what_is_not_may_vanish() {
    let mut lost = 0;
    let mut kept = 0;
    for seed in 0..50 {
        let disk = SimDisk::new(seed);
        let file = open_new(&disk, "/d/a");
        file.write_all_at(&[1; 2048], 0).unwrap();
        file.sync("content").unwrap();
        sync_dir(&disk);
        file.write_all_at(&[2; 1024], 0).unwrap();
        disk.power_cycle(seed);
        let content = disk.content(Path::new("/d/a")).unwrap();
        assert_eq!(content[1024..], [1; 1024]);
        for sector in content[..1024].chunks(512) {
            assert!(sector == [1; 512] || sector == [2; 512], "sectors are atomic");
            if sector[0] == 1 { lost += 1 } else { kept += 1 }
        }
    }
    assert!(lost > 10 && kept > 10, "lost {lost}, kept {kept}");
}

#[test]
fn a_name_needs_its_own_sync() {
    let mut vanished = 0;
    for seed in 0..50 {
        let disk = SimDisk::new(seed);
        let file = open_new(&disk, "/d/a");
        file.write_all_at(b"x", 0).unwrap();
        file.sync("content").unwrap();
        disk.power_cycle(seed);
        match disk.content(Path::new("/d/a")) {
            None => vanished += 1,
            Some(content) => assert_eq!(content, b"x"),
        }
    }
    assert!(vanished > 10);
}

#[test]
fn a_directory_needs_its_own_sync_and_takes_what_is_in_it_along() {
    let (parent, dir, file) = (Path::new("/d"), Path::new("/d/e"), Path::new("/d/e/a"));
    let run = |seed, synced: bool| {
        let disk = SimDisk::new(seed);
        disk.create_dir_all(parent).unwrap();
        disk.create_dir(dir).unwrap();
        let open = disk.open(file, Open::CreateNew).unwrap();
        open.write_all_at(b"x", 0).unwrap();
        open.sync("content").unwrap();
        disk.sync_dir(dir, "names").unwrap();
        if synced {
            sync_dir(&disk);
        }
        disk.power_cycle(seed);
        assert_eq!(disk.exists(dir).unwrap(), disk.content(file).is_some());
        disk.exists(dir).unwrap()
    };
    assert!((0..50).all(|seed| run(seed, true)));
    let kept = (0..50).filter(|seed| run(*seed, false)).count();
    assert!((10..40).contains(&kept), "kept {kept} of 50");
}

#[test]
fn a_rename_is_atomic_and_a_recycled_file_keeps_its_content() {
    for seed in 0..50 {
        let disk = SimDisk::new(seed);
        let file = open_new(&disk, "/d/a");
        file.write_all_at(b"old content", 0).unwrap();
        file.sync("content").unwrap();
        sync_dir(&disk);
        disk.rename(Path::new("/d/a"), Path::new("/d/b")).unwrap();
        disk.power_cycle(seed);
        let old = disk.content(Path::new("/d/a"));
        let new = disk.content(Path::new("/d/b"));
        assert_eq!([&old, &new].into_iter().flatten().count(), 1);
        assert_eq!(old.or(new).unwrap(), b"old content");
    }
}

#[test]
fn a_rename_across_directories_takes_the_creation_along() {
    let disk = SimDisk::new(0);
    disk.create_dir_all(Path::new("/e")).unwrap();
    let file = open_new(&disk, "/d/a");
    file.sync("content").unwrap();
    disk.rename(Path::new("/d/a"), Path::new("/e/a")).unwrap();
    disk.sync_dir(Path::new("/e"), "names").unwrap();
    disk.power_cycle(1);
    assert!(!disk.exists(Path::new("/d/a")).unwrap());
    assert!(disk.exists(Path::new("/e/a")).unwrap());
}

#[test]
fn after_a_failed_sync_cache_and_disk_differ_and_a_second_sync_does_not_help() {
    let mut lies = 0;
    for seed in 0..50 {
        let disk = SimDisk::new(seed);
        let file = open_new(&disk, "/d/a");
        sync_dir(&disk);
        file.write_all_at(&[0; 512], 0).unwrap();
        file.sync("content").unwrap();
        file.write_all_at(&[9; 512], 0).unwrap();
        disk.inject(Fault::next(Operation::Sync));
        file.sync("content").unwrap_err();
        file.sync("content").unwrap();
        assert_eq!(disk.content(Path::new("/d/a")).unwrap(), [9; 512]);
        disk.power_cycle(seed);
        if disk.content(Path::new("/d/a")).unwrap() == [0; 512] {
            lies += 1;
        }
    }
    assert!(lies > 10);
}

#[test]
fn a_crash_point_takes_the_machine_down() {
    let disk = SimDisk::new(3);
    let file = open_new(&disk, "/d/a");
    disk.crash_at(disk.operations() + 2);
    file.write_all_at(b"first", 0).unwrap();
    file.write_all_at(b"second", 0).unwrap_err();
    assert!(disk.crashed());
    disk.exists(Path::new("/d/a")).unwrap_err();
    disk.restart();
    file.len().unwrap_err();
    disk.open(Path::new("/d/a"), Open::Read).unwrap();
}

#[test]
fn a_sync_with_an_ignored_reason_does_nothing() {
    let mut vanished = 0;
    for seed in 0..50 {
        let disk = SimDisk::new(seed);
        open_new(&disk, "/d/a");
        disk.ignore_syncs("names");
        sync_dir(&disk);
        disk.power_cycle(seed);
        vanished += u32::from(!disk.exists(Path::new("/d/a")).unwrap());
    }
    assert!(vanished > 10);
}

#[test]
fn a_full_disk_says_so_and_removing_helps() {
    let disk = SimDisk::new(0);
    disk.set_capacity(Some(10_000));
    let file = open_new(&disk, "/d/a");
    file.preallocate(8_000, &mut |_| {}).unwrap();
    let other = open_new(&disk, "/d/b");
    let error = other.write_all_at(&[1; 4_000], 0).unwrap_err();
    assert!(crate::is_full(&error));
    file.write_all_at(&[1; 8_000], 0).unwrap();
    drop(file);
    disk.remove(Path::new("/d/a")).unwrap();
    sync_dir(&disk);
    other.write_all_at(&[1; 4_000], 0).unwrap();
}

#[test]
fn a_cut_file_that_grows_again_is_zero_on_the_disk_too() {
    let disk = SimDisk::new(0);
    let file = open_new(&disk, "/d/a");
    sync_dir(&disk);
    file.write_all_at(&[7; 4096], 0).unwrap();
    file.sync("content").unwrap();
    file.set_len(100).unwrap();
    file.set_len(4096).unwrap();
    file.sync("content").unwrap();
    disk.power_cycle(0);
    let content = disk.content(Path::new("/d/a")).unwrap();
    assert_eq!(content[..100], [7; 100]);
    assert!(content[100..].iter().all(|byte| *byte == 0));
}

#[test]
fn a_durable_write_covers_its_range_only() {
    let mut short = 0;
    for seed in 0..50 {
        let disk = SimDisk::new(seed);
        let file = open_new(&disk, "/d/a");
        sync_dir(&disk);
        file.write_all_at(&[1; 16_384], 0).unwrap();
        let mut block = Aligned::with_capacity(4096);
        block.extend_from_slice(&[2; 4096]);
        file.write_durable_at(&block, 4096, "content").unwrap();
        disk.power_cycle(seed);
        let content = disk.content(Path::new("/d/a")).unwrap();
        assert_eq!(content[4096..8192], [2; 4096]);
        short += u32::from(content.len() < 16_384);
    }
    assert!(short > 10);
}

#[test]
fn a_test_can_act_before_every_change() {
    let disk = SimDisk::new(1);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&seen);
    disk.before_operations(move |operation, path| kept.lock().push((operation, path.to_owned())));
    let path = PathBuf::from("/d/file");
    disk.create_dir_all(Path::new("/d")).unwrap();
    let file = disk.open(&path, Open::CreateNew).unwrap();
    file.write_all_at(b"x", 0).unwrap();
    file.sync("test").unwrap();
    drop(disk.open(&path, Open::Read).unwrap());
    disk.no_more_before_operations();
    disk.remove(&path).unwrap();
    let kinds: Vec<Operation> = seen.lock().iter().map(|(operation, _)| *operation).collect();
    use Operation::{Create, Sync, Write};
    assert_eq!(kinds, [Create, Create, Write, Sync]);
    assert_eq!(seen.lock()[3].1, path);
}
