//! The methods: what the parameters of each are, and what it asks for.

use std::{net::IpAddr, time::Duration};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use super::{
    fault::Fault,
    interface::{CONTROL, SERVICE},
    message::{self, Call},
};
use crate::{
    config::rules::Vlan,
    daemon::{
        requests::{Answer, Change, Request, TapOutputs, TapRequest},
        taps::summary::TapInterface,
    },
};

/// What a call asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Asked {
    /// Who serves.
    Info,
    /// The description of an interface.
    Description {
        /// The interface.
        interface: String,
    },
    /// The status.
    Status,
    /// All rules, or the one of a name.
    Rules {
        /// The name.
        name: Option<String>,
    },
    /// Something that the main thread does.
    Request(Request),
}

/// Parameters of a method that has none.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NoParameters {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct InterfaceParameters {
    interface: String,
}

/// The parameters of `Rules`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RulesParameters {
    /// The name of the rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleFile {
    name: String,
    text: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReloadParameters {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    file: Option<RuleFile>,
    #[serde(default)]
    dry_run: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    confirm_within_seconds: Option<u32>,
    #[serde(default)]
    discard_runtime: Option<bool>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AddParameters {
    file: RuleFile,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NameParameters {
    name: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ExplainParameters {
    interface: String,
    group: IpAddr,
    port: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    source: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    vlan: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    inner_vlan: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    file: Option<RuleFile>,
}

/// The method after which the connection carries records.
pub const TAP: &str = "Tap";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TapParameters {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rule: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    output: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    all: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    buffer_kib: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    passed: Option<String>,
}

impl RuleFile {
    fn new((name, text): (String, String)) -> Self {
        Self { name, text }
    }

    fn into_pair(self) -> (String, String) {
        (self.name, self.text)
    }
}

/// What `call` asks for.
///
/// # Errors
///
/// There is no such method, or its parameters are wrong.
pub fn asked(call: &Call<'_>) -> Result<Asked, Fault> {
    let unknown = || Fault::MethodNotFound {
        method: call.method.clone().into_owned(),
    };
    let (interface, method) = call.method.rsplit_once('.').ok_or_else(unknown)?;
    let upgrade = call.upgrade == Some(true);
    if upgrade && (interface, method) != (CONTROL, TAP) {
        return Err(wrong("upgrade: only `Tap` has another protocol"));
    }
    let parameters = call.parameters;
    if interface == SERVICE {
        return match method {
            "GetInfo" => read::<NoParameters>(parameters).map(|_| Asked::Info),
            "GetInterfaceDescription" => {
                let InterfaceParameters { interface } = read(parameters)?;
                Ok(Asked::Description { interface })
            }
            _ => Err(unknown()),
        };
    }
    if interface != CONTROL {
        return Err(Fault::InterfaceNotFound {
            interface: interface.to_owned(),
        });
    }
    let name = || read::<NameParameters>(parameters).map(|parameters| parameters.name);
    let nothing = |request| read::<NoParameters>(parameters).map(|_| request);
    Ok(Asked::Request(match method {
        "Status" => return read::<NoParameters>(parameters).map(|_| Asked::Status),
        "Rules" => {
            let RulesParameters { name } = read(parameters)?;
            return Ok(Asked::Rules { name });
        }
        "Reload" => reload(read(parameters)?)?,
        "Confirm" => nothing(Request::Confirm)?,
        "Undo" => nothing(Request::Undo)?,
        "Add" => {
            let AddParameters { file } = read(parameters)?;
            let (label, text) = file.into_pair();
            Request::Add { label, text }
        }
        "Remove" => Request::Remove { name: name()? },
        "Enable" => Request::Enable { name: name()? },
        "Disable" => Request::Disable { name: name()? },
        "Save" => nothing(Request::Save)?,
        "Explain" => explain(read(parameters)?),
        TAP => match (tap(read(parameters)?)?, upgrade) {
            (request, true) => request,
            (_, false) => {
                return Err(wrong(
                    "upgrade: after the reply the connection carries records",
                ));
            }
        },
        "Stop" => nothing(Request::Stop)?,
        _ => return Err(unknown()),
    }))
}

fn wrong(parameter: &str) -> Fault {
    Fault::InvalidParameter {
        parameter: parameter.into(),
    }
}

/// Reads parameters; a method without any may be called without them.
fn read<T: DeserializeOwned>(parameters: Option<&RawValue>) -> Result<T, Fault> {
    let text = parameters.map_or("{}", RawValue::get);
    serde_json::from_str(text).map_err(|error| Fault::InvalidParameter {
        parameter: error.to_string(),
    })
}

fn reload(parameters: ReloadParameters) -> Result<Request, Fault> {
    if parameters.confirm_within_seconds == Some(0) {
        return Err(Fault::InvalidParameter {
            parameter: "confirm_within_seconds: it must be at least 1".into(),
        });
    }
    let seconds = parameters.confirm_within_seconds;
    Ok(Request::Reload {
        text: parameters.file.map(RuleFile::into_pair),
        dry_run: parameters.dry_run.unwrap_or_default(),
        confirm_within: seconds.map(|seconds| Duration::from_secs(seconds.into())),
        discard_runtime: parameters.discard_runtime.unwrap_or_default(),
    })
}

/// The ring of a tap in each worker if the client does not say: 4 MiB.
const RING_KIB: u32 = 4096;

fn tap(parameters: TapParameters) -> Result<Request, Fault> {
    let all = parameters.all == Some(true);
    let kib = parameters.buffer_kib.unwrap_or(RING_KIB);
    let of_rule = parameters.output.is_some() || all || parameters.buffer_kib.is_some();
    Ok(Request::Tap(match (parameters.rule, parameters.passed) {
        (Some(_), None) if all && parameters.output.is_some() => {
            return Err(wrong("all: one output is asked for as well"));
        }
        (Some(name), None) => TapRequest::Rule {
            name,
            outputs: match all {
                true => TapOutputs::All,
                false => TapOutputs::One(parameters.output.unwrap_or(1)),
            },
            ring: (kib as usize).saturating_mul(1 << 10),
        },
        (None, Some(_)) if of_rule => {
            return Err(wrong("passed: nothing else goes with it"));
        }
        (None, Some(interface)) => TapRequest::Passed { interface },
        _ => return Err(wrong("rule: either this or `passed` must be there")),
    }))
}

fn explain(parameters: ExplainParameters) -> Request {
    Request::Explain {
        interface: parameters.interface,
        group: parameters.group,
        port: parameters.port,
        source: parameters.source,
        vlan: Vlan::of_tags(parameters.vlan, parameters.inner_vlan),
        text: parameters.file.map(RuleFile::into_pair),
    }
}

/// The call that makes `request`: its method and parameters.
///
/// # Errors
///
/// The parameters cannot be written as JSON.
pub fn call(request: Request) -> serde_json::Result<(&'static str, Option<Box<RawValue>>)> {
    fn with(
        method: &'static str,
        parameters: &impl Serialize,
    ) -> serde_json::Result<(&'static str, Option<Box<RawValue>>)> {
        let parameters = serde_json::value::to_raw_value(parameters)?;
        Ok((method, Some(parameters)))
    }
    match request {
        Request::Reload {
            text,
            dry_run,
            confirm_within,
            discard_runtime,
        } => {
            let seconds = confirm_within.map(|within| within.as_secs());
            let parameters = ReloadParameters {
                file: text.map(RuleFile::new),
                dry_run: Some(dry_run),
                confirm_within_seconds: seconds.map(|s| u32::try_from(s).unwrap_or(u32::MAX)),
                discard_runtime: Some(discard_runtime),
            };
            with("Reload", &parameters)
        }
        Request::Confirm => Ok(("Confirm", None)),
        Request::Undo => Ok(("Undo", None)),
        Request::Add { label, text } => {
            let file = RuleFile::new((label, text));
            with("Add", &AddParameters { file })
        }
        Request::Remove { name } => with("Remove", &NameParameters { name }),
        Request::Enable { name } => with("Enable", &NameParameters { name }),
        Request::Disable { name } => with("Disable", &NameParameters { name }),
        Request::Save => Ok(("Save", None)),
        Request::Explain {
            interface,
            group,
            port,
            source,
            vlan,
            text,
        } => {
            let (vlan, inner_vlan) = vlan.tags();
            let parameters = ExplainParameters {
                interface,
                group,
                port,
                source,
                vlan,
                inner_vlan,
                file: text.map(RuleFile::new),
            };
            with("Explain", &parameters)
        }
        Request::Tap(request) => {
            let nothing = TapParameters {
                rule: None,
                output: None,
                all: None,
                buffer_kib: None,
                passed: None,
            };
            let parameters = match request {
                TapRequest::Rule {
                    name,
                    outputs,
                    ring,
                } => TapParameters {
                    rule: Some(name),
                    output: match outputs {
                        TapOutputs::One(number) => Some(number),
                        TapOutputs::All => None,
                    },
                    all: (outputs == TapOutputs::All).then_some(true),
                    buffer_kib: Some(u32::try_from(ring >> 10).unwrap_or(u32::MAX)),
                    ..nothing
                },
                TapRequest::Passed { interface } => TapParameters {
                    passed: Some(interface),
                    ..nothing
                },
                // A client ends its tap by closing.
                TapRequest::End(_) => nothing,
            };
            with(TAP, &parameters)
        }
        Request::Stop => Ok(("Stop", None)),
    }
}

#[derive(Default, Serialize, Deserialize)]
struct AnswerParameters {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    change: Option<Change>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    interfaces: Option<Vec<TapInterface>>,
}

/// What the reply to `Tap` has.
#[derive(Deserialize)]
pub struct TapReply {
    /// What records name.
    pub interfaces: Vec<TapInterface>,
}

/// The reply that carries `answer`.
pub fn reply(answer: Answer) -> Vec<u8> {
    let mut parameters = AnswerParameters::default();
    match answer {
        Answer::Changed(change) => parameters.change = Some(change),
        Answer::Rules(text) | Answer::Explained(text) => parameters.text = Some(text),
        Answer::Tapping(tapping) => {
            parameters.interfaces = Some(tapping.interfaces().to_vec());
        }
        Answer::Confirmed | Answer::Stopping => {}
    }
    message::success(&parameters)
}

/// The answer that the reply to a call of `method` carries; `None` if it is not what the method
/// returns.
pub fn answer(method: &str, parameters: &str) -> Option<Answer> {
    let AnswerParameters { change, text, .. } = serde_json::from_str(parameters).ok()?;
    match method {
        "Confirm" => Some(Answer::Confirmed),
        "Stop" => Some(Answer::Stopping),
        "Save" => text.map(Answer::Rules),
        "Explain" => text.map(Answer::Explained),
        _ => change.map(Answer::Changed),
    }
}
