//! The C ABI of spillring. Its functions are not written yet: this crate only fixes the place and
//! the dependency rule (public API of `spillring`, writer's side only).

pub use spillring;
