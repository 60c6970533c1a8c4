//! The network testbed of the end-to-end tests.
