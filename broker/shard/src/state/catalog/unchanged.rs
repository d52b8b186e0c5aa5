//! Commands that would change nothing are answered after a read barrier, without a log entry.
//!
//! Operators periodically declare every queue and bind every group again, and nearly all of these
//! commands change nothing. Answering them from the state saves an entry and an fsync.
//!
//! Invariant: when [`Catalog::answer_if_unchanged`] answers, applying the command would give the
//! same answer and leave the catalog as it is, except for its revision.

use std::collections::BTreeMap;

use super::{Answer, Catalog, DeclareOutcome, Refusal, Topic};
use crate::command::{CatalogCommand, ConfigResource, NewTopic, StartPosition};
use crate::id::TopicId;

impl Catalog {
    /// The answer to a command that would change nothing; `None` for one that has to be applied.
    #[must_use]
    pub fn answer_if_unchanged(&self, command: &CatalogCommand) -> Option<Answer> {
        match command {
            CatalogCommand::Fenced { epoch, command } => {
                let newest = self.epoch();
                if *epoch < newest {
                    return Some(Answer::Refused(Refusal::StaleEpoch { newest }));
                }
                // A newer epoch has to be stored before a command of it is answered.
                if *epoch == newest { self.answer_if_unchanged(command) } else { None }
            }
            CatalogCommand::DeclareTopic { topic, exists } => self.declare_answer(topic, *exists),
            CatalogCommand::ReleaseTopic { topic, owner, .. } => {
                let released = Answer::Released { deleted: false };
                self.owner_answer(*topic, owner, &released, |_| None)
            }
            CatalogCommand::BindGroup { topic, owner, group, start } => {
                match self.topics.get(topic).map(|found| found.owner.as_ref()) {
                    None => Some(Answer::Refused(Refusal::NoSuchTopic)),
                    Some(None) => Some(Answer::Refused(Refusal::NotOwned)),
                    Some(Some(_)) => self.owner_answer(*topic, owner, &Answer::Done, |_| {
                        (self.bound_from(*topic, group)? == *start).then_some(Answer::Done)
                    }),
                }
            }
            CatalogCommand::UnbindGroup { topic, owner, group } => {
                self.owner_answer(*topic, owner, &Answer::Done, |_| {
                    self.bound_from(*topic, group).is_none().then_some(Answer::Done)
                })
            }
            CatalogCommand::CreateTopics(_)
            | CatalogCommand::DeleteTopics(_)
            | CatalogCommand::AddPartitions { .. }
            | CatalogCommand::AlterConfigs { .. }
            | CatalogCommand::AllocateProducerIds { .. }
            | CatalogCommand::SetOwner { .. }
            | CatalogCommand::ClaimFence { .. }
            | CatalogCommand::AbandonTopics(_)
            | CatalogCommand::ReportLevel { .. }
            | CatalogCommand::RegisterBroker { .. }
            | CatalogCommand::ForgetBroker { .. }
            | CatalogCommand::SetStanding { .. }
            | CatalogCommand::PlaceReplica { .. }
            | CatalogCommand::SetRole { .. }
            | CatalogCommand::RemoveReplica { .. }
            | CatalogCommand::ChangeStanding { .. }
            | CatalogCommand::RecordClaim(_) => None,
        }
    }

    /// `unowned` for a topic that does not exist or has no owner; a refusal if another owns it.
    fn owner_answer(
        &self,
        id: TopicId,
        owner: &str,
        unowned: &Answer,
        of_owner: impl FnOnce(&Topic) -> Option<Answer>,
    ) -> Option<Answer> {
        let Some(topic) = self.topics.get(&id) else { return Some(unowned.clone()) };
        match &topic.owner {
            None => Some(unowned.clone()),
            Some(current) if current == owner => of_owner(topic),
            Some(current) => {
                Some(Answer::Refused(Refusal::OwnedByAnother { owner: current.clone() }))
            }
        }
    }

    fn declare_answer(&self, new: &NewTopic, exists: bool) -> Option<Answer> {
        let id = self.names.get(&new.name).filter(|id| exists && **id == new.id)?;
        let topic = self.topics.get(id)?;
        match &topic.owner {
            Some(current) if Some(current) == new.owner.as_ref() => {}
            Some(current) => {
                return Some(Answer::Refused(Refusal::OwnedByAnother { owner: current.clone() }));
            }
            None => return None,
        }
        let is_grown = new.partitions.len() <= topic.partitions.len();
        let wanted: BTreeMap<&str, &str> =
            new.configs.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        let is_configured = self.configs(&ConfigResource::Topic(*id)).eq(wanted);
        (is_grown && is_configured).then(|| {
            Answer::Declared(DeclareOutcome {
                id: *id,
                partitions: topic.partitions.len(),
                created: false,
                adopted: false,
                changed: Vec::new(),
            })
        })
    }

    /// The start position of a group that is bound to a topic.
    fn bound_from(&self, topic: TopicId, group: &str) -> Option<StartPosition> {
        Some(self.bindings.get(&topic)?.get(group)?.start)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::command::PartitionPlacement;
    use crate::id::ShardId;

    const NAMES: [&str; 2] = ["orders", "refunds"];

    fn id(n: u8) -> TopicId {
        TopicId(uuid::Uuid::from_u128(u128::from(n)))
    }

    fn homes(count: usize) -> Vec<PartitionPlacement> {
        vec![PartitionPlacement { shard: ShardId(1), epoch_base: 0 }; count]
    }

    fn new_topic() -> impl Strategy<Value = NewTopic> {
        let configs = proptest::collection::btree_map("[ab]", "[12]", 0..2);
        (0_u8..2, 1_usize..3, configs, proptest::option::of("[xy]")).prop_map(
            |(n, count, configs, owner)| NewTopic {
                id: id(n),
                name: NAMES[usize::from(n)].to_owned(),
                partitions: homes(count),
                configs: configs.into_iter().collect(),
                owner,
            },
        )
    }

    fn start() -> impl Strategy<Value = StartPosition> {
        prop_oneof![Just(StartPosition::Earliest), Just(StartPosition::Latest)]
    }

    fn unfenced() -> impl Strategy<Value = CatalogCommand> {
        let topic = (0_u8..3).prop_map(id);
        prop_oneof![
            (new_topic(), any::<bool>())
                .prop_map(|(topic, exists)| CatalogCommand::DeclareTopic { topic, exists }),
            (topic.clone(), "[xy]", any::<bool>()).prop_map(|(topic, owner, delete)| {
                CatalogCommand::ReleaseTopic { topic, owner, delete }
            }),
            (topic.clone(), "[xy]", "[gh]", start()).prop_map(|(topic, owner, group, start)| {
                CatalogCommand::BindGroup { topic, owner, group, start }
            }),
            (topic.clone(), "[xy]", "[gh]").prop_map(|(topic, owner, group)| {
                CatalogCommand::UnbindGroup { topic, owner, group }
            }),
            topic.prop_map(|topic| CatalogCommand::SetOwner { topic, owner: None }),
            Just(CatalogCommand::ClaimFence { holder: "h".into(), lease_uid: "l".into() }),
        ]
    }

    fn command() -> impl Strategy<Value = CatalogCommand> {
        let fenced = (0_u64..4, unfenced()).prop_map(|(epoch, command)| CatalogCommand::Fenced {
            epoch,
            command: Box::new(command),
        });
        prop_oneof![unfenced(), fenced]
    }

    proptest! {
        /// Each command is applied twice: the second time it mostly changes nothing.
        #[test]
        fn an_answer_without_a_change_is_the_answer_of_applying_it(
            commands in proptest::collection::vec(command(), 1..30)
        ) {
            let mut catalog = Catalog::default();
            for command in commands.iter().flat_map(|command| [command, command]) {
                let expected = catalog.answer_if_unchanged(command);
                let before = catalog.clone();
                let (answer, _) = catalog.apply(7, command.clone());
                if let Some(expected) = expected {
                    prop_assert_eq!(&expected, &answer);
                    catalog.revision = before.revision;
                    prop_assert_eq!(&catalog, &before);
                }
            }
        }
    }

    #[test]
    fn a_declaration_or_binding_that_is_repeated_changes_nothing() {
        let mut catalog = Catalog::default();
        let topic = NewTopic {
            id: id(0),
            name: "orders".into(),
            partitions: homes(2),
            configs: vec![("retention.ms".into(), "1".into())],
            owner: Some("x".into()),
        };
        let bind = CatalogCommand::BindGroup {
            topic: id(0),
            owner: "x".into(),
            group: "g".into(),
            start: StartPosition::Latest,
        };
        catalog.apply(0, CatalogCommand::DeclareTopic { topic: topic.clone(), exists: false });
        assert_eq!(catalog.answer_if_unchanged(&bind), None);
        catalog.apply(0, bind.clone());
        let again = CatalogCommand::DeclareTopic { topic: topic.clone(), exists: true };
        for command in [again, bind] {
            assert!(catalog.answer_if_unchanged(&command).is_some(), "{command:?}");
            let fenced =
                |epoch| CatalogCommand::Fenced { epoch, command: Box::new(command.clone()) };
            assert!(catalog.answer_if_unchanged(&fenced(0)).is_some());
            assert_eq!(catalog.answer_if_unchanged(&fenced(1)), None, "a newer epoch is a change");
        }
        for changed in [
            NewTopic { partitions: homes(3), ..topic.clone() },
            NewTopic { configs: vec![], ..topic.clone() },
            NewTopic { configs: vec![("retention.ms".into(), "2".into())], ..topic },
        ] {
            let command = CatalogCommand::DeclareTopic { topic: changed, exists: true };
            assert_eq!(catalog.answer_if_unchanged(&command), None, "{command:?}");
        }
    }
}
