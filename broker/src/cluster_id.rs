//! Makes cluster ids.

/// A new cluster id in Kafka's format: 16 random bytes in URL-safe base64.
pub(crate) fn new_cluster_id() -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let bits = uuid::Uuid::new_v4().as_u128();
    // 21 digits of six bits from the top, and the last two bits.
    let digit = |at: u32| DIGITS[(bits >> (122 - 6 * at)) as usize & 63] as char;
    (0..21).map(digit).chain([DIGITS[(bits << 4) as usize & 63] as char]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cluster_ids_look_like_kafkas() {
        let id = new_cluster_id();
        assert_eq!(id.len(), 22);
        assert!(id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)), "{id}");
        assert_ne!(id, new_cluster_id());
    }
}
