//! When a device no longer uses what a closed socket had.

use super::*;
use crate::testing::{in_namespace, run};

#[test]
fn only_a_refusal_of_the_queue_itself_says_that_it_has_no_umem() {
    let is_free = |error| is_free(&io::Error::from_raw_os_error(error));
    for error in [libc::EINVAL, libc::ENODEV, libc::ENXIO, libc::EOPNOTSUPP] {
        assert!(is_free(error), "{error}");
    }
    for error in [
        libc::EBUSY,
        libc::ENOMEM,
        libc::ENOBUFS,
        libc::EMFILE,
        libc::ENFILE,
        libc::EPERM,
        libc::EINTR,
    ] {
        assert!(!is_free(error), "{error}");
    }
    assert!(!super::is_free(&io::Error::other("no number")));
}

#[test]
fn a_queue_that_another_socket_has_bound_is_released_after_a_while() {
    in_namespace(|| {
        run("ip link add in0 type veth peer name va");
        run("ip link set in0 up");
        run("ip link set va up");
        let name = std::ffi::CString::new("in0").unwrap();
        // SAFETY: the text ends with a zero.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        let chunks = |count| Chunks::new(PROBE_CHUNK, count, 0).unwrap();
        let (own, of_another) = (chunks(4), chunks(4));
        let port = Port::bind(
            of_another.umem(),
            ("in0", index),
            0,
            Mode::Copy,
            0,
            0,
            false,
        );
        let releasing = |since| Releasing {
            interface: index,
            queue: 0,
            since,
            closed: Closed::new(7, Box::default(), 4),
        };
        let mut sockets = Sockets {
            umem: own.umem().clone(),
            chunks: 4,
            mode: Mode::ZeroCopy,
            shares: false,
            places: Vec::new(),
            leaving: Vec::new(),
            releasing: vec![releasing(Instant::now())],
            accounted: Vec::new(),
            shared: -1,
            sharer: 0,
        };
        assert!(sockets.close(Vec::new()).is_empty());
        assert!(
            sockets.has_leaving(),
            "the device may still use what it had"
        );
        let long_ago = Instant::now().checked_sub(RELEASED).unwrap();
        sockets.releasing = vec![releasing(long_ago)];
        let closed = sockets.close(Vec::new());
        assert_eq!(closed.iter().map(Closed::tag).collect::<Vec<_>>(), [7]);
        assert!(!sockets.has_leaving());
        // A port of its own that is bound to the queue is a proof.
        sockets.places = vec![Place {
            interface: index,
            queue: 0,
            receives: true,
            tag: 1,
            fd: port.as_ref().unwrap().fd(),
        }];
        sockets.releasing = vec![releasing(Instant::now())];
        assert_eq!(sockets.close(Vec::new()).len(), 1);
        // And so is a queue that nobody has bound.
        sockets.places = Vec::new();
        sockets.releasing = vec![releasing(Instant::now())];
        drop((port, of_another));
        let deadline = Instant::now() + BIND_PATIENCE;
        while sockets.close(Vec::new()).is_empty() {
            assert!(Instant::now() < deadline, "the queue is free");
        }
    });
}
