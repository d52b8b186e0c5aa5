//! Kafka's record batch v2: header, checksum, checks, records, compression. No I/O.
