//! A live core gets messages that no correct replica sends. It refuses them or continues; it never
//! panics, and keeps no more than its bounds allow.

mod forge;

use proptest::collection::vec;
use proptest::prelude::*;

proptest! {
    #[test]
    fn arbitrary_messages_neither_panic_nor_grow(data in vec(any::<u8>(), 0..2000)) {
        forge::step_forged(&data);
    }
}
