//! Objects that somebody else, such as an admission policy, changes as they are written.
//!
//! Writing them again would end the same way every time (K1): they are skipped until they, or what is
//! wanted of them, change.

use std::collections::HashMap;

use parking_lot::Mutex;

/// What was written in vain, by kind, namespace and name of the object.
#[derive(Debug, Default)]
pub struct Contested(Mutex<HashMap<String, Attempt>>);

#[derive(Debug, PartialEq, Eq)]
struct Attempt {
    /// The hash of what was wanted.
    wanted: String,
    /// The state that the object was left in.
    left: String,
}

impl Contested {
    /// Whether this was written before, and the object is still as that left it.
    pub fn is_vain(&self, object: &str, wanted: &str, state: &str) -> bool {
        let attempt = Attempt { wanted: wanted.to_owned(), left: state.to_owned() };
        self.0.lock().get(object) == Some(&attempt)
    }

    /// It was written, and came back different.
    pub fn lost(&self, object: String, wanted: String, left: String) {
        self.0.lock().insert(object, Attempt { wanted, left });
    }

    /// It was written and stays, or is gone.
    pub fn settled(&self, object: &str) {
        self.0.lock().remove(object);
    }

    /// Nothing of this namespace and cluster is known any more.
    pub fn forget(&self, namespace: &str, cluster: &str) {
        let begins = format!("{namespace}/{cluster}/");
        self.0.lock().retain(|object, _| !object.starts_with(&begins));
    }
}
