//! The encodings of lengths, and lengths that are wrong.

use super::*;

fn reader(bytes: &[u8]) -> Reader {
    Reader::new(Bytes::copy_from_slice(bytes))
}

#[test]
fn null_and_empty_are_told_apart_in_both_spellings() {
    assert_eq!(reader(b"\xff\xff").nullable_string(false), Ok(None));
    assert_eq!(reader(b"\0\0").nullable_string(false), Ok(Some(Str::new())));
    assert_eq!(reader(b"\0").nullable_string(true), Ok(None));
    assert_eq!(reader(b"\x01").nullable_string(true), Ok(Some(Str::new())));
    assert_eq!(reader(b"\xff\xff\xff\xff").nullable_bytes(false), Ok(None));
    assert_eq!(reader(b"\0").string(true), Err(DecodeError::UnexpectedNull));
}

#[test]
fn lengths_beyond_the_frame_are_refused() {
    assert_eq!(reader(b"\xff\xfe").string(false), Err(DecodeError::Length(-2)));
    assert_eq!(reader(b"\0\x03ab").string(false), Err(DecodeError::Length(3)));
    assert_eq!(reader(b"\x7f\xff\xff\xff").bytes(false), Err(DecodeError::Length(0x7fff_ffff)));
    assert_eq!(
        reader(b"\xff\xff\xff\xff\x0f").bytes(true),
        Err(DecodeError::Length(0xffff_fffe)),
        "the longest varint"
    );
    let five_of_four_bytes = reader(b"\0\0\0\x05aaaabbbbccccdddd").array(false, 4, Reader::i32);
    assert_eq!(five_of_four_bytes, Err(DecodeError::Length(5)));
}

#[test]
fn a_string_longer_than_kafka_allows_is_refused_although_it_is_there() {
    let mut wire = vec![0x81, 0x80, 0x02];
    wire.resize(3 + 0x8000, b'a');
    assert_eq!(reader(&wire).string(true), Err(DecodeError::Length(0x8000)));
}

#[test]
fn varints_end_after_32_bits() {
    assert_eq!(reader(b"\0").uvarint(), Ok(0));
    assert_eq!(reader(b"\xac\x02").uvarint(), Ok(300));
    assert_eq!(reader(b"\xff\xff\xff\xff\x0f").uvarint(), Ok(u32::MAX));
    assert_eq!(reader(b"\xff\xff\xff\xff\x1f").uvarint(), Err(DecodeError::Varint));
    assert_eq!(reader(b"\x80\x80\x80\x80\x80\x01").uvarint(), Err(DecodeError::Varint));
    assert_eq!(reader(b"\x80").uvarint(), Err(DecodeError::Truncated));
}

#[test]
fn unknown_tags_are_skipped_and_known_ones_must_fill_their_size() {
    let wire = b"\x02\x00\x01\x07\x63\x03abcX";
    let mut seen = None;
    let mut r = reader(wire);
    let read = r.tags(|r, tag| {
        if tag == 0 {
            seen = Some(r.i8()?);
        }
        Ok(tag == 0)
    });
    assert_eq!((read, seen, r.remaining()), (Ok(()), Some(7), 1));

    let short = reader(b"\x01\x00\x02\x07\x07").tags(|r, _| r.i8().map(|_| true));
    assert_eq!(short, Err(DecodeError::TagSize));
    let long = reader(b"\x01\x00\x01\x07\x07").tags(|r, _| r.i16().map(|_| true));
    assert_eq!(long, Err(DecodeError::TagSize));
    let beyond = reader(b"\x01\x00\x09\x07").skip_tags();
    assert_eq!(beyond, Err(DecodeError::Truncated));
}

#[test]
fn a_bomb_of_tags_ends_with_the_frame() {
    let mut wire = b"\xff\xff\xff\xff\x0f".to_vec();
    wire.extend_from_slice(&[0; 1000]);
    assert_eq!(reader(&wire).skip_tags(), Err(DecodeError::Truncated));
}

#[test]
fn arrays_of_small_things_that_are_large_in_memory_use_up_the_allowance() {
    let wire = |count: u32| {
        let mut wire = count.to_be_bytes().to_vec();
        wire.resize(4 + count as usize, 1);
        Bytes::from(wire)
    };
    // An empty compact string takes one byte on the wire, and the size of a `Str` in memory.
    let decode = |r: Reader, count| {
        let mut r = r;
        let strings = r.array(false, 1, |r| r.string(true));
        strings.map(|strings| assert_eq!(strings.len(), count))
    };
    assert_eq!(decode(Reader::new(wire(1000)), 1000), Ok(()));
    assert_eq!(decode(Reader::new(wire(1_000_000)), 0), Err(DecodeError::TooLarge));
    let narrow = Reader::new(wire(1000)).with_allowance(999 * size_of::<Str>());
    assert_eq!(decode(narrow, 0), Err(DecodeError::TooLarge));
}

#[test]
fn strings_and_bytes_are_slices_of_the_frame() {
    let frame = Bytes::from(b"\0\x05topic\0\0\0\x04data".to_vec());
    let within = |part: *const u8| frame.as_ptr_range().contains(&part);
    let mut r = Reader::new(frame.clone());
    let name = r.string(false).expect("a string");
    let data = r.records(false).expect("records").single().expect("one piece");
    assert!(within(name.as_str().as_ptr()));
    assert!(within(data.as_ptr()));
    assert_eq!((name.as_str(), data.as_ref()), ("topic", b"data".as_ref()));
    assert_eq!(r.finish(), Ok(()));
}

#[test]
fn bytes_behind_the_end_are_reported() {
    let mut r = reader(b"\0\0\x01");
    assert_eq!(r.i16(), Ok(0));
    assert_eq!(r.finish(), Err(DecodeError::Trailing(1)));
}
