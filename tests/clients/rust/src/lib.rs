//! Input and output of the Rust clients in the client matrix.
//!
//! `tests/clients/python/records.py` describes the format for all clients.

use std::collections::{BTreeSet, HashMap};
use std::error::Error;

use base64::prelude::{BASE64_STANDARD, Engine};
use serde::{Deserialize, Serialize};

pub type Outcome = Result<(), Box<dyn Error>>;

#[derive(Deserialize)]
pub struct Orders {
    pub bootstrap: String,
    #[serde(default)]
    pub group: String,
    #[serde(default)]
    pub topics: Vec<Topic>,
    #[serde(default)]
    pub partitions: Vec<Partition>,
}

impl Orders {
    /// Reads the orders from standard input.
    pub fn given() -> Result<Self, Box<dyn Error>> {
        Ok(serde_json::from_reader(std::io::stdin())?)
    }

    pub fn outstanding(&self) -> Outstanding {
        let asked = self.partitions.iter().filter(|p| p.count > 0);
        Outstanding(asked.map(|p| ((p.topic.clone(), p.partition), p.count)).collect())
    }
}

#[derive(Deserialize)]
pub struct Topic {
    pub topic: String,
    pub compression: String,
    pub records: Vec<Record>,
}

#[derive(Deserialize)]
pub struct Partition {
    pub topic: String,
    pub partition: i32,
    pub count: u64,
}

#[derive(Deserialize, Serialize)]
pub struct Record {
    #[serde(default)]
    pub topic: String,
    pub partition: i32,
    #[serde(default)]
    pub offset: i64,
    pub timestamp: i64,
    pub key: Option<String>,
    pub value: Option<String>,
    pub headers: Vec<(String, Option<String>)>,
}

/// Records that a reader still has to receive, by topic and partition.
pub struct Outstanding(HashMap<(String, i32), u64>);

impl Outstanding {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn topics(&self) -> BTreeSet<String> {
        self.0.keys().map(|(topic, _)| topic.clone()).collect()
    }

    pub fn show(&mut self, record: &Record) -> Outcome {
        println!("{}", serde_json::to_string(record)?);
        let name = (record.topic.clone(), record.partition);
        if let Some(left) = self.0.get_mut(&name) {
            *left -= 1;
            if *left == 0 {
                self.0.remove(&name);
            }
        }
        Ok(())
    }
}

pub fn decoded(text: Option<&String>) -> Option<Vec<u8>> {
    text.map(|text| BASE64_STANDARD.decode(text).expect("the driver writes base64"))
}

pub fn encoded(data: Option<&[u8]>) -> Option<String> {
    data.map(|data| BASE64_STANDARD.encode(data))
}
