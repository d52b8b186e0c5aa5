//! Objects that another client, such as an admission policy, changes at every write.
//!
//! Another write would have the same result (K1), so these objects are skipped until they or their
//! wanted state change.

use std::collections::HashMap;

use parking_lot::Mutex;

/// Writes that did not hold, by kind, namespace and name of the object.
#[derive(Debug, Default)]
pub struct ContestedObjects(Mutex<HashMap<String, Attempt>>);

#[derive(Debug, PartialEq, Eq)]
struct Attempt {
    /// Hash of the wanted object.
    wanted: String,
    /// State of the object after the write, see [`crate::apply::mark`].
    left: String,
}

impl ContestedObjects {
    /// Whether the same object was written before and is still in the state after that write.
    pub fn is_futile(&self, object: &str, wanted: &str, state: &str) -> bool {
        let attempt = Attempt { wanted: wanted.to_owned(), left: state.to_owned() };
        self.0.lock().get(object) == Some(&attempt)
    }

    /// Records a write after which the object differs from its wanted state.
    pub fn altered(&self, object: String, wanted: String, left: String) {
        self.0.lock().insert(object, Attempt { wanted, left });
    }

    /// Discards the record of an object whose write held, or that is gone.
    pub fn succeeded(&self, object: &str) {
        self.0.lock().remove(object);
    }

    /// Discards the records of all objects of a cluster.
    pub fn discard(&self, namespace: &str, cluster: &str) {
        let begins = format!("{namespace}/{cluster}/");
        self.0.lock().retain(|object, _| !object.starts_with(&begins));
    }
}
