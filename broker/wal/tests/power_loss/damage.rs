//! Bits that flip and files that are cut: nothing wrong is believed, and only those pay whom it hit.
