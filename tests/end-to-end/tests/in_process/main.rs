//! A relay's worker inside the test's process, for what cannot be seen from outside.

mod ending;
mod full_rings;
mod gso_packets;
mod kernel_changes;
mod port_changes;
mod set_up;
mod table_changes;
