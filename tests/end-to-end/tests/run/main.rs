//! A relay from its start to its end: what it forwards and counts, what it refuses, and what its
//! host sees of it.

mod checksums;
mod confined;
mod devices;
mod fallback;
mod far_end;
mod forwarding;
mod gro;
mod huge_rule_files;
mod limits;
mod log;
mod log_fields;
mod loops;
mod many_interfaces;
mod many_rules;
mod matching;
mod memberships;
mod privileges;
mod queues;
mod rule_file_mistakes;
mod service;
mod shared_payloads;
mod signals;
