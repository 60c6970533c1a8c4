//! Who may do what: read by the kernel from the client's process, never told by the client.

use std::{collections::BTreeSet, io, os::fd::AsRawFd as _, os::unix::net::UnixStream};

use nix::{
    sys::socket::{getsockopt, sockopt::PeerCredentials},
    unistd::{Gid, Group, Uid, User, getegid, geteuid},
};

use crate::host::socket_options::peer_groups;

/// The users and groups that may change things.
#[derive(Debug)]
pub struct Owners {
    uids: BTreeSet<u32>,
    gids: BTreeSet<u32>,
    /// Who they are, for refusals.
    names: String,
}

/// What a client may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rights {
    /// Everything.
    Owner,
    /// Read the status, and ask about the running rules.
    Guest {
        /// Its user.
        uid: u32,
    },
}

impl Owners {
    /// Root, the user and the group that this process runs as, and the socket's group if it has
    /// one of its own.
    pub fn new(socket_group: Option<Gid>) -> Self {
        let uids = [Uid::from_raw(0), geteuid()];
        let gids: Vec<Gid> = [getegid()].into_iter().chain(socket_group).collect();
        let user = |uid: &Uid| match User::from_uid(*uid) {
            Ok(Some(user)) => format!("user {}", user.name),
            _ => format!("uid {uid}"),
        };
        let group = |gid: &Gid| match Group::from_gid(*gid) {
            Ok(Some(group)) => format!("members of group {}", group.name),
            _ => format!("members of gid {gid}"),
        };
        let mut names: Vec<String> = uids.iter().map(user).collect();
        names.extend(gids.iter().map(group));
        names.dedup();
        Self {
            uids: uids.map(Uid::as_raw).into(),
            gids: gids.into_iter().map(Gid::as_raw).collect(),
            names: names.join(", "),
        }
    }

    /// What the client at the other end of `stream` may do.
    ///
    /// # Errors
    ///
    /// The kernel does not say who the client is.
    pub fn rights(&self, stream: &UnixStream) -> io::Result<Rights> {
        let peer = getsockopt(stream, PeerCredentials)?;
        let is_member = || {
            let groups = peer_groups(stream.as_raw_fd()).unwrap_or_default();
            groups.iter().any(|gid| self.gids.contains(gid))
        };
        let is_owner =
            self.uids.contains(&peer.uid()) || self.gids.contains(&peer.gid()) || is_member();
        Ok(match is_owner {
            true => Rights::Owner,
            false => Rights::Guest { uid: peer.uid() },
        })
    }

    /// Why a guest may not call a method, and who may.
    pub fn refusal(&self, uid: u32) -> String {
        format!(
            "uid {uid} may only read the status and ask about the running rules; changes are for \
             {}: use `sudo`, or start the relay with `--control-group`",
            self.names
        )
    }
}
