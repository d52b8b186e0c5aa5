//! The contents of a data directory, and a crash at each step of formatting.

use std::path::Path;

use ropewalk_disk::SimDisk;

use super::*;

fn identity() -> Identity {
    Identity::first("c".to_owned(), BrokerId(7), 24)
}

fn data(disk: &SimDisk) -> DataDir {
    DataDir::new(Arc::new(disk.clone()), PathBuf::from("/data"))
}

fn format(data: &DataDir) -> Result<(), DirectoryError> {
    data.lock()?;
    data.begin_formatting(&identity())?;
    data.create_dir(&data.wal())?;
    data.finish_formatting()
}

#[test]
fn d4_a_formatted_directory_is_never_formatted_again() {
    let disk = SimDisk::new(1);
    let data = data(&disk);
    assert_eq!(data.contents().unwrap(), DataDirContents::Empty);
    format(&data).unwrap();
    disk.power_cycle(2);
    assert_eq!(data.contents().unwrap(), DataDirContents::Formatted(identity()));
    let again = format(&data).unwrap_err();
    assert!(matches!(again, DirectoryError::Formatted { .. }), "{again}");
}

#[test]
fn d4_a_crash_while_formatting_leaves_a_directory_that_is_whole_or_not_formatted() {
    let operations = {
        let disk = SimDisk::new(1);
        format(&data(&disk)).unwrap();
        disk.operations()
    };
    for at in 1..=operations {
        for seed in 0..4 {
            let disk = SimDisk::new(seed);
            disk.crash_at(at);
            let _ = format(&data(&disk));
            disk.power_cycle(seed);
            match data(&disk).contents().unwrap() {
                DataDirContents::Empty | DataDirContents::HalfFormatted => {
                    format(&data(&disk)).unwrap()
                }
                DataDirContents::Formatted(found) => assert_eq!(found, identity()),
            }
            assert_eq!(data(&disk).contents().unwrap(), DataDirContents::Formatted(identity()));
        }
    }
}

#[test]
fn a_second_broker_is_refused() {
    let disk = SimDisk::new(1);
    let held = data(&disk).lock().unwrap();
    assert!(matches!(data(&disk).lock(), Err(DirectoryError::InUse(_))));
    drop(held);
    data(&disk).lock().unwrap();
}

#[test]
fn somebody_elses_directory_is_left_alone() {
    let disk = SimDisk::new(1);
    disk.create_dir_all(Path::new("/data")).unwrap();
    disk.put(Path::new("/data/thesis.tex"), b"x".to_vec());
    let error = format(&data(&disk)).unwrap_err();
    assert!(error.to_string().contains("thesis.tex"), "{error}");
    let error = data(&disk).lock().map(drop).unwrap_err();
    assert!(error.to_string().contains("thesis.tex"), "{error}");
    let names = disk.list(Path::new("/data")).unwrap();
    assert_eq!(names.len(), 1, "no file was made in it: {names:?}");
}

#[test]
fn another_version_is_refused_and_a_flipped_bit_is_damage() {
    let disk = SimDisk::new(1);
    let data = data(&disk);
    format(&data).unwrap();
    let path = Path::new("/data/meta");
    let good = disk.content(path).unwrap();
    for at in 0..good.len() as u64 {
        disk.corrupt(path, at, 1);
        assert!(matches!(data.contents(), Err(DirectoryError::Damaged { .. })), "byte {at}");
        disk.corrupt(path, at, 1);
    }
    let mut newer = good;
    newer[8] = 3;
    let end = newer.len() - 4;
    let crc = crc32c::crc32c(&newer[..end]).to_le_bytes();
    newer[end..].copy_from_slice(&crc);
    disk.put(path, newer);
    assert!(matches!(data.contents(), Err(DirectoryError::UnknownVersion { version: 3, .. })));
}

#[test]
fn a_directory_of_version_1_is_that_of_a_first_broker() {
    let disk = SimDisk::new(1);
    let data = data(&disk);
    format(&data).unwrap();
    let path = Path::new("/data/meta");
    let mut older = disk.content(path).unwrap();
    // Without the last field.
    let end = older.len() - 5;
    older.truncate(end);
    older[8] = 1;
    older[12] -= 1;
    let crc = crc32c::crc32c(&older).to_le_bytes();
    older.extend(crc);
    disk.put(path, older);
    assert_eq!(data.contents().unwrap(), DataDirContents::Formatted(identity()));
}
