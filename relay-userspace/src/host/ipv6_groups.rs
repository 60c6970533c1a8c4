//! The IPv6 groups that the kernel has on its interfaces. It ends them with the interface's IPv6,
//! for example where the MTU falls below 1280 (`addrconf_notify` in net/ipv6/addrconf.c), and tells
//! the sockets that joined them nothing.

use std::{collections::BTreeSet, fs, io, net::Ipv6Addr};

/// The groups of this network namespace, each with the index of its interface.
///
/// # Errors
///
/// /proc does not list them.
pub fn ipv6_groups() -> io::Result<BTreeSet<(u32, Ipv6Addr)>> {
    let list = fs::read_to_string("/proc/thread-self/net/igmp6")?;
    Ok(groups(&list))
}

/// Reads `/proc/net/igmp6` (`igmp6_mc_seq_show` in net/ipv6/mcast.c): lines that begin with the
/// index, the interface's name and the group in hexadecimal digits.
fn groups(list: &str) -> BTreeSet<(u32, Ipv6Addr)> {
    let lines = list.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let index = words.next()?.parse().ok()?;
        let group = u128::from_str_radix(words.nth(1)?, 16).ok()?;
        Some((index, Ipv6Addr::from_bits(group)))
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_read_from_the_list_of_the_kernel() {
        let list = "4    in0             ff3e000000000000000000000000ef01     1 00000004 0\n\
                    1    lo              ff020000000000000000000000000001     1 0000000C 0\n\
                    not a line\n";
        let group = |text: &str| text.parse().unwrap();
        assert_eq!(
            groups(list),
            BTreeSet::from([(4, group("ff3e::ef01")), (1, group("ff02::1"))])
        );
    }
}
