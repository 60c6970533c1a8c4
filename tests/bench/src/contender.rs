//! The programs that are compared.
