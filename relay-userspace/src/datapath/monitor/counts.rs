//! Numbers that only grow, in two forms: as the worker writes them and as others read them.

/// What a worker writes and a source leaves behind when it gives way.
pub trait Cells: Default {
    /// The same numbers, as others read them.
    type Plain: Copy;

    /// The numbers.
    fn get(&self) -> Self::Plain;
    /// Adds those of another. Only the owning worker may call this.
    fn add(&self, more: &Self);
    /// Sets all to zero. Only the owning worker may call this.
    fn reset(&self);
}

impl Cells for () {
    type Plain = ();

    fn get(&self) {}
    fn add(&self, (): &Self) {}
    fn reset(&self) {}
}

/// Makes a struct of numbers, and the struct that a worker writes them to.
macro_rules! counts {
    (
        $(#[$doc:meta])* $plain:ident, $cells:ident {
            $($(#[$field_doc:meta])* $field:ident,)*
        }
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct $plain {
            $($(#[$field_doc])* pub $field: u64,)*
        }

        impl $plain {
            /// The sums of both.
            #[must_use]
            pub const fn plus(self, more: Self) -> Self {
                Self { $($field: self.$field.wrapping_add(more.$field),)* }
            }

            /// The numbers with their names.
            pub fn named(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
                [$((stringify!($field), self.$field)),*].into_iter()
            }
        }

        /// The same numbers, as a worker writes them.
        #[derive(Debug, Default)]
        pub struct $cells {
            $($(#[$field_doc])* pub $field: $crate::datapath::stats::Count,)*
        }

        impl $crate::datapath::monitor::counts::Cells for $cells {
            type Plain = $plain;

            fn get(&self) -> $plain {
                $plain { $($field: self.$field.get(),)* }
            }

            fn add(&self, more: &Self) {
                $(self.$field.add(more.$field.get());)*
            }

            fn reset(&self) {
                $(self.$field.set(0);)*
            }
        }
    };
}
pub(super) use counts;

counts! {
    /// What is counted of a source, whatever its datagrams are. These numbers only grow. See the
    /// head of [`monitor`](super) for what they mean exactly.
    Counts, CountCells {
        /// Datagrams that arrived.
        datagrams,
        /// Numbers that never came, or too late to be told from a restart.
        lost,
        /// Numbers that came after higher ones.
        reordered,
        /// Datagrams all of whose numbers had come before.
        duplicated,
        /// Lone datagrams whose number was far from those before and behind them.
        stray,
        /// How often the numbers began anew.
        restarts,
        /// Datagrams that are not what the rule says.
        not_understood,
    }
}
