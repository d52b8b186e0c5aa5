//! The view shows what the catalog's entries change, and says up to which revision.

use ropewalk_shard::command::{CatalogCommand, Command, Envelope, NewTopic, PeerEndpoint};
use ropewalk_shard::{Effect, State};

use super::*;

const FIRST: BrokerId = BrokerId(1);

/// A catalog, and a view that follows it.
struct Followed {
    state: State,
    view: View,
}

impl Followed {
    fn new() -> Self {
        let settings = Settings::new([]).expect("valid");
        let catalog = Catalog::first("cluster".to_owned(), FIRST, 2);
        let view = View::new(Arc::new(settings));
        view.reload(&catalog);
        Self { state: State { catalog: Some(Box::new(catalog)), ..State::default() }, view }
    }

    fn apply(&mut self, command: CatalogCommand) -> Change {
        let entry = Envelope { term: 1, time_ms: 0, command: Command::Catalog(command) };
        let mut effects = Vec::new();
        self.state.apply(1, entry, &mut effects);
        let Some(Effect::CatalogChanged(change)) = effects.pop() else { panic!("{effects:?}") };
        change
    }

    fn catalog(&self) -> &Catalog {
        self.state.catalog.as_ref().expect("it is there")
    }
}

fn register(info: BrokerInfo) -> CatalogCommand {
    CatalogCommand::RegisterBroker { broker: BrokerId(2), info }
}

#[test]
fn brokers_and_replicas_are_shown_as_they_come_and_go() {
    let mut followed = Followed::new();
    assert_eq!(followed.view.brokers().keys().collect::<Vec<_>>(), [&FIRST]);
    let info = BrokerInfo {
        rack: Some("b".to_owned()),
        peer: Some(PeerEndpoint { host: "two".to_owned(), ports: [9, 10] }),
        endpoints: BTreeMap::from([("PLAINTEXT".to_owned(), ("two".to_owned(), 9092))]),
        ..BrokerInfo::default()
    };
    let place = CatalogCommand::PlaceReplica { shard: ShardId(1), broker: BrokerId(2) };
    for command in [register(info.clone()), place] {
        let change = followed.apply(command);
        followed.view.follow(followed.catalog(), &change);
    }
    let view = &followed.view;
    assert_eq!(view.brokers().get(&BrokerId(2)), Some(&info));
    let placed = PlacedReplica { broker: BrokerId(2), role: Role::Learner };
    assert_eq!(view.replicas(ShardId(1)).get(&ReplicaId(4)), Some(&placed));
    assert_eq!((view.placements().len(), view.replicas(ShardId(9)).len()), (3, 0));
    assert!(
        !view.is_removed(ShardId(1), ReplicaId(4)) && view.is_removed(ShardId(2), ReplicaId(4))
    );
    assert!(!view.is_removed(ShardId(1), ReplicaId(5)), "the view may lag behind its placement");

    let directory: &dyn Directory = view;
    let listed = directory.brokers();
    assert_eq!(listed[1].peer, Some(PeerAddress { host: "two".to_owned(), ports: [9, 10] }));
    assert_eq!((listed[1].known.id, listed[1].known.rack.as_deref()), (BrokerId(2), Some("b")));
    assert_eq!(listed[1].known.endpoints["PLAINTEXT"], (Str::from("two"), 9092));
    assert_eq!((listed[0].known.id, &listed[0].peer), (FIRST, &None));
    let votes: Vec<_> = directory.replicas(ShardId(1)).iter().map(|r| r.is_voter).collect();
    assert_eq!(votes, [true, false]);
    assert_eq!(directory.broker_of(ShardId(1), ReplicaId(4)), Some(BrokerId(2)));
    assert_eq!(directory.broker_of(ShardId(2), ReplicaId(4)), None);
}

/// Of entries that are applied at once, the first changes are shown while the catalog has them all.
#[test]
fn a_revision_is_announced_when_all_changes_up_to_it_are_shown() {
    let mut followed = Followed::new();
    let changed = followed.view.changed();
    let topic = |n: u128, name: &str| NewTopic {
        id: TopicId(uuid::Uuid::from_u128(n)),
        name: name.to_owned(),
        partitions: Vec::new(),
        configs: Vec::new(),
        owner: None,
    };
    let commands = [
        CatalogCommand::CreateTopics(vec![topic(1, "a")]),
        CatalogCommand::AllocateProducerIds { count: 1 },
        CatalogCommand::CreateTopics(vec![topic(2, "b")]),
    ];
    let changes = commands.map(|command| followed.apply(command));
    let view = &followed.view;
    let mut shown = Vec::new();
    for change in &changes {
        view.follow(followed.catalog(), change);
        shown.push((*changed.borrow(), view.by_name("b").is_some()));
    }
    assert_eq!(shown, [(1, false), (2, false), (3, true)]);
    // A change that the view had when it was loaded.
    view.reload(followed.catalog());
    view.follow(followed.catalog(), &changes[2]);
    assert_eq!(*changed.borrow(), 3);
}
