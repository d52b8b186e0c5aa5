//! Kafka's wire format, generated from the message schemas; counts are bounded before any allocation. No I/O.
