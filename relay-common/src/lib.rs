//! What the XDP program and user space both read.
#![no_std]
