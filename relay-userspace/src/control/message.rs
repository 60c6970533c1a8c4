//! The messages of varlink: JSON objects, each followed by a NUL byte.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// What ends a message.
pub const END: u8 = 0;

/// What a client sends. Its parameters stay text until the method is known, so that reading a
/// message takes no more memory than the message.
#[derive(Debug, Serialize, Deserialize)]
pub struct Call<'a> {
    /// The interface and the method, with a dot between them.
    #[serde(borrow)]
    pub method: Cow<'a, str>,
    /// The parameters.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub parameters: Option<&'a RawValue>,
    /// Whether the client wants replies until it closes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub more: Option<bool>,
    /// Whether the client wants no reply.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oneway: Option<bool>,
    /// Whether the connection shall change its protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upgrade: Option<bool>,
}

/// What a server sends, as a client reads it.
#[derive(Debug, Deserialize)]
pub struct Reply<'a> {
    /// The error's name; `None` if the call succeeded.
    #[serde(borrow, default)]
    pub error: Option<Cow<'a, str>>,
    /// What the method returns, or what the error says.
    #[serde(borrow, default)]
    pub parameters: Option<&'a RawValue>,
}

/// The reply of a call that succeeded.
#[derive(Serialize)]
struct Success<'a, T> {
    parameters: &'a T,
}

/// The message that returns `parameters`.
pub fn success(parameters: &impl Serialize) -> Vec<u8> {
    message(&Success { parameters })
}

/// `value` as a message.
pub fn message(value: &impl Serialize) -> Vec<u8> {
    // Everything that is sent is a struct with names for keys, and writing to a vector cannot fail.
    let mut bytes = serde_json::to_vec(value).unwrap_or_default();
    bytes.push(END);
    bytes
}
