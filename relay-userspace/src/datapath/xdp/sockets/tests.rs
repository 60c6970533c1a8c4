//! When a device no longer uses what a closed socket had.

use super::*;

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
