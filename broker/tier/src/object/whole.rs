//! Checks a whole object: every checksum, and everything that can be derived from the batches.

use bytes::Bytes;

use super::footer::{Footer, Tail, read_tail};
use super::summary::{GrowingBlock, Order, Summary};
use super::{batches, decode_header};
use crate::content;
use crate::format::FormatError;
use crate::names::Name;

/// Verifies all bytes of the object that is called `name`: its SHA-256 is the one of the name, the
/// header and the footer name the same range, each batch and each block has its checksum, and the
/// footer says what the batches say. Returns the footer.
///
/// # Errors
/// The first contradiction.
pub fn verify(object: &Bytes, name: &Name) -> Result<Footer, FormatError> {
    let size_bytes = object.len() as u64;
    let footer = match read_tail(object, name, size_bytes)? {
        Tail::Footer(footer) => *footer,
        Tail::From(_) => return Err(FormatError::Short { what: "object" }),
    };
    let (identity, _) = decode_header(object)?;
    if identity != footer.identity {
        return Err(FormatError::invalid("object", "its header and its footer differ"));
    }
    let mut order = Order::new(identity.base);
    let mut summary = Summary::default();
    for number in 0..footer.blocks.len() {
        verify_block(object, &footer, number, &mut order, &mut summary)?;
    }
    if footer.epochs != summary.epochs || footer.producers != summary.producers() {
        let why = "its epochs or producers are not those of its batches";
        return Err(FormatError::invalid("footer of the object", why));
    }
    if content::short(&content::sha256([&object[..]])) != name.digest {
        return Err(FormatError::invalid("object", "its SHA-256 is not the one of its name"));
    }
    Ok(footer)
}

fn verify_block(
    object: &Bytes,
    footer: &Footer,
    number: usize,
    order: &mut Order,
    summary: &mut Summary,
) -> Result<(), FormatError> {
    let positions = footer.positions(number..number + 1);
    let bytes = object.slice(positions.start as usize..positions.end as usize);
    footer.verify_blocks(number..number + 1, &bytes)?;
    let expected = footer.blocks[number];
    let invalid = |why: String| FormatError::invalid("block of the object", why);
    let mut found: Option<GrowingBlock> = None;
    for batch in batches(bytes) {
        let batch = batch.map_err(|error| invalid(error.to_string()))?;
        order.follow(&batch).map_err(|error| invalid(error.to_string()))?;
        let header = batch.header();
        summary.add(&header);
        match &mut found {
            Some(block) => block.add(&batch, &header),
            None => found = Some(GrowingBlock::new(&batch, &header, expected.position)),
        }
    }
    if found.map(GrowingBlock::finish) != Some(expected) {
        let why = format!("block {number} is not described by the footer as it is");
        return Err(invalid(why));
    }
    Ok(())
}
