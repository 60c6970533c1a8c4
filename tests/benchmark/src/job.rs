//! What every contender of one trial has to do: receive the same feeds from the same wire, and send
//! the same copies, on the same core.

use std::{collections::BTreeSet, net::Ipv4Addr, sync::Arc};

use relay_tests::netns::Namespace;
use serde::{Deserialize, Serialize};

use crate::framing::Framing;

/// The work of one trial, in terms that fit every contender.
#[derive(Debug, Clone)]
pub struct Job {
    /// The host that the contender runs in. Its interfaces exist, are up and have addresses.
    pub namespace: Arc<Namespace>,
    /// The CPU that all of the contender's threads are pinned to.
    pub cpu: u32,
    /// The interface that the feeds arrive on.
    pub input: String,
    /// The headers of the frames that arrive.
    pub framing: Framing,
    /// The feeds, one per rule. Traffic may use only the first ones: the others make the rule set
    /// larger.
    pub flows: Vec<Flow>,
}

/// One feed and its copies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    /// Its group when it arrives.
    pub group: Ipv4Addr,
    /// Its destination port when it arrives.
    pub port: u16,
    /// The keys of the relay's rule that stand for group and port, where it takes more or less than
    /// those. No other contender has such rules.
    #[serde(skip)]
    pub takes: Option<String>,
    /// The copies. Never empty.
    pub outputs: Vec<Output>,
}

/// One copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// The interface that it leaves through.
    pub interface: String,
    /// The group or the host that it is sent to; a contender that cannot rewrite keeps the flow's.
    pub group: Ipv4Addr,
    /// The destination port that it is sent to; a contender that cannot rewrite keeps the flow's.
    pub port: u16,
}

/// A job as the benchmark's own programs read it, as JSON, without the namespace and the CPU, in
/// and on which they are started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// The interface that the feeds arrive on.
    pub input: String,
    /// The feeds.
    pub flows: Vec<Flow>,
}

impl Job {
    /// What a program must know that was started in the namespace and on the CPU.
    pub fn work(&self) -> Work {
        Work {
            input: self.input.clone(),
            flows: self.flows.clone(),
        }
    }

    /// The interfaces that copies leave through, each once.
    pub fn output_interfaces(&self) -> BTreeSet<&str> {
        let outputs = self.flows.iter().flat_map(|flow| &flow.outputs);
        outputs.map(|output| output.interface.as_str()).collect()
    }
}
