//! What the catalog keeps of deleted topics: the proof with which shards close partitions.

use super::{Catalog, Refusal};
use crate::deletion::Deletion;
use crate::id::TopicId;
use crate::limits;

impl Catalog {
    /// The proof that a topic was deleted; `None` if it was not, or so long ago that its tombstone
    /// was removed.
    #[must_use]
    pub fn deletion(&self, topic: TopicId) -> Option<Deletion> {
        self.tombstones.get(&topic).map(|revision| Deletion::of_tombstone(topic, *revision))
    }

    /// Adds the tombstone of a topic that was deleted.
    pub(super) fn bury(&mut self, topic: TopicId) {
        if self.tombstones.len() >= limits::TOMBSTONES_MAX {
            self.remove_oldest();
        }
        self.tombstones.insert(topic, self.revision);
    }

    /// Records the deletion of a topic that the catalog does not list.
    pub(super) fn abandon(&mut self, topic: TopicId) -> Result<TopicId, Refusal> {
        if let Some(listed) = self.topics.get(&topic) {
            return Err(Refusal::TopicExists { name: listed.name.clone() });
        }
        if !self.tombstones.contains_key(&topic) {
            self.bury(topic);
        }
        Ok(topic)
    }

    /// Removes many tombstones at once, so that the cost of the search is small for each.
    /// Deterministic: every replica removes the same ones.
    fn remove_oldest(&mut self) {
        let mut by_age: Vec<_> = self.tombstones.iter().map(|(id, at)| (*at, *id)).collect();
        let count = limits::TOMBSTONES_REMOVED_AT_ONCE;
        by_age.select_nth_unstable(count - 1);
        for (_, id) in &by_age[..count] {
            self.tombstones.remove(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{CatalogCommand, NewTopic};
    use crate::state::catalog::Answer;

    fn id(n: usize) -> TopicId {
        TopicId(uuid::Uuid::from_u128(n as u128))
    }

    fn new(n: usize, name: &str) -> NewTopic {
        let (partitions, configs) = (Vec::new(), Vec::new());
        NewTopic { id: id(n), name: name.to_owned(), partitions, configs, owner: None }
    }

    fn topics(catalog: &mut Catalog, command: CatalogCommand) -> Result<TopicId, Refusal> {
        let (answer, _) = catalog.apply(0, command);
        let Answer::Topics(mut results) = answer else { panic!("{answer:?}") };
        results.pop().expect("one topic")
    }

    #[test]
    fn a_deleted_topic_is_proved_and_its_id_is_not_used_again() {
        let mut catalog = Catalog::default();
        let create = |n, name| CatalogCommand::CreateTopics(vec![new(n, name)]);
        assert_eq!(topics(&mut catalog, create(1, "orders")), Ok(id(1)));
        assert_eq!(catalog.deletion(id(1)), None, "it exists");
        let used = Err(Refusal::IdUsed { id: id(1) });
        assert_eq!(topics(&mut catalog, create(1, "refunds")), used);
        assert_eq!(topics(&mut catalog, CatalogCommand::DeleteTopics(vec![id(1)])), Ok(id(1)));
        let proof = catalog.deletion(id(1)).expect("it was deleted");
        assert_eq!((proof.topic(), proof.revision()), (id(1), 3));
        assert_eq!(topics(&mut catalog, create(1, "orders")), used);
        let declare = CatalogCommand::DeclareTopic { topic: new(1, "orders"), exists: false };
        let (answer, _) = catalog.apply(0, declare);
        assert_eq!(answer, Answer::Refused(Refusal::IdUsed { id: id(1) }));
    }

    #[test]
    fn only_a_topic_that_is_not_listed_can_be_abandoned() {
        let mut catalog = Catalog::default();
        topics(&mut catalog, CatalogCommand::CreateTopics(vec![new(1, "orders")])).expect("new");
        let abandon = |n| CatalogCommand::AbandonTopics(vec![id(n)]);
        let exists = Err(Refusal::TopicExists { name: "orders".to_owned() });
        assert_eq!(topics(&mut catalog, abandon(1)), exists);
        assert_eq!(catalog.deletion(id(1)), None);
        assert_eq!(topics(&mut catalog, abandon(2)), Ok(id(2)));
        let proof = catalog.deletion(id(2));
        assert!(proof.is_some());
        assert_eq!(topics(&mut catalog, abandon(2)), Ok(id(2)));
        assert_eq!(catalog.deletion(id(2)), proof, "the first deletion counts");
    }

    #[test]
    fn r1_the_oldest_tombstones_are_removed_when_there_are_too_many() {
        let mut catalog = Catalog::default();
        let all: Vec<_> = (1..=limits::TOMBSTONES_MAX).map(id).collect();
        for (index, topic) in all.iter().enumerate() {
            catalog.revision = index as u64;
            catalog.bury(*topic);
        }
        assert_eq!(catalog.tombstones.len(), limits::TOMBSTONES_MAX);
        catalog.bury(id(limits::TOMBSTONES_MAX + 1));
        let kept = limits::TOMBSTONES_MAX - limits::TOMBSTONES_REMOVED_AT_ONCE;
        assert_eq!(catalog.tombstones.len(), kept + 1);
        assert_eq!(catalog.deletion(all[limits::TOMBSTONES_REMOVED_AT_ONCE - 1]), None);
        assert!(catalog.deletion(all[limits::TOMBSTONES_REMOVED_AT_ONCE]).is_some());
    }
}
