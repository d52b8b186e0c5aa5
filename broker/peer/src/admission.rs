//! Whether two brokers connect: what a hello must say, and which of two connections stays.
//!
//! # Who dials
//!
//! Both sides dial while they have no connection, and a hello with a newer incarnation ends the
//! connections of the older one. If only one side dialled, a broker that restarts would wait for
//! the other to notice that its connection is dead (an idle timeout), and to resolve the new
//! address (the caches of the name service); it is itself who knows first that it has restarted,
//! and the addresses of the others have not changed.
//!
//! When both dial at once, the connection stays that the broker with the lower id dialled. The one
//! with the higher id leaves it a head start, so that this is rare. When one side dials again
//! although the other still has a connection that the same side dialled, the older connection is
//! dead at the side that dials, and the newer one stays.
//!
//! This module decides and has no I/O.

use ropewalk_shard::BrokerId;

use crate::hello::{Class, Hello, PROTOCOLS, Reason, Refusal, Start};
use crate::name::BrokerName;

/// What a broker says about itself in each hello.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    /// Id of the broker.
    pub(crate) broker: BrokerId,
    /// Id of the cluster.
    pub(crate) cluster_id: String,
    /// The start of the broker.
    pub(crate) start: Start,
    /// The starts before it, without a gap, oldest first.
    pub(crate) earlier: Vec<Start>,
    /// The feature level of the broker.
    pub(crate) features: u32,
}

impl Identity {
    /// The hello to another broker.
    pub(crate) fn hello(&self, to: BrokerId, class: Class) -> Hello {
        Hello {
            protocols: PROTOCOLS,
            class,
            broker: self.broker,
            to,
            incarnation: self.start.incarnation,
            process: self.start.process,
            features: self.features,
            cluster_id: self.cluster_id.clone(),
            earlier: self.earlier.clone(),
        }
    }

    /// Checks the hello of the other side against its certificate and this broker. Returns the
    /// version of the protocol that both speak.
    ///
    /// # Errors
    /// The refusal that the other side is sent.
    pub(crate) fn check(
        &self,
        certificate: &BrokerName,
        theirs: &Hello,
        class: Class,
    ) -> Result<u16, Refusal> {
        let refuse = |reason, text| Err(Refusal::new(reason, text));
        let Some(protocol) = PROTOCOLS.common(theirs.protocols) else {
            let text = format!(
                "broker {} speaks versions {} of the protocol, broker {} speaks {PROTOCOLS}",
                theirs.broker.0, theirs.protocols, self.broker.0
            );
            return refuse(Reason::Protocol, text);
        };
        if theirs.cluster_id != self.cluster_id || !certificate.is_of_cluster(&self.cluster_id) {
            let text = format!(
                "the hello names cluster {:?}, the certificate {certificate}, and broker {} \
                 belongs to cluster {:?}",
                theirs.cluster_id, self.broker.0, self.cluster_id
            );
            return refuse(Reason::Cluster, text);
        }
        if theirs.broker != certificate.broker() {
            let text = format!(
                "the hello is of broker {}, the certificate of {certificate}",
                theirs.broker.0
            );
            return refuse(Reason::Broker, text);
        }
        if theirs.broker == self.broker || theirs.to != self.broker {
            let text = format!(
                "broker {} wants to reach broker {}, but this is broker {}",
                theirs.broker.0, theirs.to.0, self.broker.0
            );
            return refuse(Reason::Broker, text);
        }
        if theirs.class != class {
            let text = format!("the hello is of class {}, the port of {class}", theirs.class);
            return refuse(Reason::Class, text);
        }
        Ok(protocol)
    }
}

/// The refusal of a broker that is not in the list of members.
pub(crate) fn not_a_member(broker: BrokerId, own: BrokerId) -> Refusal {
    let text = format!("broker {} is not a member, as far as broker {} knows", broker.0, own.0);
    Refusal::new(Reason::NotMember, text)
}

/// How a start relates to the newest one that is known of the same broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// The first, or a later one: connections of the earlier one end.
    Newer,
    /// The same process.
    Same,
}

/// Compares a start of a broker with the newest one that is known. `earlier` are the starts of its
/// data directory before it: a copy of the directory was restarted until its incarnation is the
/// higher one, but the known start is not among its own.
///
/// # Errors
/// The refusal of a start that is older, or a copy.
pub(crate) fn standing(
    broker: BrokerId,
    newest: Option<Start>,
    start: Start,
    earlier: &[Start],
) -> Result<Standing, Refusal> {
    let Some(newest) = newest else { return Ok(Standing::Newer) };
    let incarnations = format!("incarnation {} of broker {}", start.incarnation, broker.0);
    let is_remembered =
        earlier.first().is_some_and(|first| first.incarnation <= newest.incarnation);
    match start.incarnation.cmp(&newest.incarnation) {
        std::cmp::Ordering::Greater if is_remembered && !earlier.contains(&newest) => {
            Err(Refusal::new(
                Reason::Copy,
                format!(
                    "{incarnations} began with a copy of its data directory: incarnation {}, which is known, was \
                     another process",
                    newest.incarnation
                ),
            ))
        }
        std::cmp::Ordering::Greater => Ok(Standing::Newer),
        std::cmp::Ordering::Equal if start.process == newest.process => Ok(Standing::Same),
        std::cmp::Ordering::Equal => Err(Refusal::new(
            Reason::Copy,
            format!("another process has {incarnations}: the broker runs twice"),
        )),
        std::cmp::Ordering::Less => Err(Refusal::new(
            Reason::Stale,
            format!("{incarnations} is older than {}, which is known", newest.incarnation),
        )),
    }
}

/// The side that dialled a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialler {
    /// This broker dialled it.
    Own,
    /// The other broker.
    Peer,
}

/// Which of two connections stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Winner {
    /// The one that exists.
    Current,
    /// The one whose hello has just been accepted.
    New,
}

/// Which of two connections between the same two processes stays.
pub(crate) fn winner(own: BrokerId, peer: BrokerId, current: Dialler, new: Dialler) -> Winner {
    let lower = if own < peer { Dialler::Own } else { Dialler::Peer };
    if current == new || new == lower { Winner::New } else { Winner::Current }
}

/// The refusal of the connection that does not stay.
pub(crate) fn duplicate(broker: BrokerId) -> Refusal {
    Refusal::new(Reason::Duplicate, format!("broker {} is connected already", broker.0))
}

#[cfg(test)]
mod tests;
