//! What the relay says of its interfaces: `org.varlink.service`, which every varlink service has.

use serde::Serialize;

use super::{fault::Fault, message};

/// The interface of the relay.
pub const CONTROL: &str = "io.github.relay.Control";
/// The interface of every varlink service.
pub const SERVICE: &str = "org.varlink.service";

const DESCRIPTIONS: [(&str, &str); 2] = [
    (SERVICE, include_str!("org.varlink.service.varlink")),
    (CONTROL, include_str!("io.github.relay.Control.varlink")),
];

#[derive(Serialize)]
struct Info {
    vendor: &'static str,
    product: &'static str,
    version: &'static str,
    url: &'static str,
    interfaces: [&'static str; 2],
}

#[derive(Serialize)]
struct Description {
    description: &'static str,
}

/// The reply to `GetInfo`.
pub fn info() -> Vec<u8> {
    message::success(&Info {
        vendor: "relay",
        product: "relay",
        version: env!("CARGO_PKG_VERSION"),
        url: "",
        interfaces: DESCRIPTIONS.map(|(name, _)| name),
    })
}

/// The reply to `GetInterfaceDescription`.
///
/// # Errors
///
/// There is no such interface.
pub fn description(interface: &str) -> Result<Vec<u8>, Fault> {
    let found = DESCRIPTIONS.iter().find(|(name, _)| *name == interface);
    let (_, description) = found.ok_or_else(|| Fault::InterfaceNotFound {
        interface: interface.to_owned(),
    })?;
    Ok(message::success(&Description { description }))
}
