//! Which bytes are copied and which referenced, and that the lengths are right.

use super::*;

const STRING_BYTES_MAX: usize = i16::MAX as usize;

fn large(byte: u8) -> Bytes {
    vec![byte; BY_REFERENCE_BYTES_MIN].into()
}

#[test]
fn large_bytes_are_passed_on_by_reference_and_small_ones_gather() {
    let (first, second) = (large(1), large(2));
    let mut w = Writer::new();
    w.put_i32(7);
    w.put_bytes_chunk(Bytes::from_static(b"small"));
    w.put_bytes_chunk(first.clone());
    w.put_bytes_chunk(second.clone());
    w.put_i8(9);
    let length = w.len();
    let chunks = w.into_chunks();
    assert_eq!(chunks.iter().map(Bytes::len).collect::<Vec<_>>(), [9, 1024, 1024, 1]);
    assert_eq!(chunks[1].as_ptr(), first.as_ptr());
    assert_eq!(chunks[2].as_ptr(), second.as_ptr());
    assert_eq!(length, 9 + 1024 + 1024 + 1);
}

#[test]
fn an_empty_writer_has_no_chunks() {
    assert!(Writer::new().is_empty());
    assert!(Writer::new().into_chunks().is_empty());
    assert_eq!(Writer::new().into_bytes(), Bytes::new());
}

#[test]
fn records_that_follow_later_leave_their_place_and_count_as_written() {
    for flexible in [false, true] {
        let mut w = Writer::new();
        w.put_i32(0);
        w.put_records(&Records::later(3_000), flexible).expect("short");
        w.put_i8(9);
        w.patch_length().expect("short");
        let mut whole = Writer::new();
        whole.put_i32(0);
        whole.put_records(&Records::from(Bytes::from(vec![7; 3_000])), flexible).expect("short");
        whole.put_i8(9);
        whole.patch_length().expect("short");
        assert_eq!(w.len(), whole.len());

        let filled = w.into_parts().into_iter().map(|part| match part {
            Part::Bytes(bytes) => bytes,
            Part::Later(size_bytes) => Bytes::from(vec![7; size_bytes]),
        });
        assert_eq!(filled.collect::<Vec<_>>().concat(), whole.into_bytes());
    }
    assert_eq!(Records::later(5).len(), 5);
    assert_ne!(Records::later(5), Records::from(Bytes::from(vec![0; 5])));
}

#[test]
fn records_of_many_chunks_are_one_field() {
    let records = Records::from_chunks(vec![Bytes::from_static(b"prefix"), large(3)]);
    let mut w = Writer::new();
    w.put_records(&records, false).expect("short");
    let wire = w.into_bytes();
    assert_eq!(wire.len(), 4 + 6 + 1024);
    let read = crate::Reader::new(wire).records(false).expect("what we wrote");
    assert_eq!(read, records);
}

#[test]
fn the_length_of_a_frame_counts_what_is_referenced() {
    let mut w = Writer::new();
    w.put_i32(0);
    w.put_bytes_chunk(large(1));
    w.put_i16(5);
    w.patch_length().expect("short");
    assert_eq!(w.into_bytes()[..4], (1024 + 2_i32).to_be_bytes());
}

#[test]
fn lengths_are_spelled_as_the_reader_reads_them() {
    for value in [0, 1, 127, 128, 16_383, 16_384, u32::MAX] {
        let mut w = Writer::new();
        w.put_uvarint(value);
        assert_eq!(crate::Reader::new(w.into_bytes()).uvarint(), Ok(value));
    }
}

#[test]
fn a_string_that_no_length_can_say_is_refused() {
    let text = "a".repeat(STRING_BYTES_MAX + 1);
    for flexible in [false, true] {
        let refused = Writer::new().put_string(&text, flexible);
        assert_eq!(refused, Err(EncodeError::TooLong(STRING_BYTES_MAX + 1)));
        assert_eq!(Writer::new().put_string(&text[1..], flexible), Ok(()));
    }
}

#[test]
fn tagged_fields_carry_their_size_also_when_it_is_referenced() {
    let mut tags = Tags::new();
    tags.put(0, |w| {
        w.put_i8(1);
        Ok(())
    })
    .expect("no error inside");
    tags.put(5, |w| w.put_bytes(&large(4), true)).expect("short");
    let mut w = Writer::new();
    w.put_tags(tags);
    let mut seen = vec![];
    let mut r = crate::Reader::new(w.into_bytes());
    r.tags(|_, tag| {
        seen.push(tag);
        Ok(false)
    })
    .expect("sizes agree");
    assert_eq!((seen, r.finish()), (vec![0, 5], Ok(())));
}
