//! The guides of the repository's directory `docs`, for reading here. Links between them lead to the
//! files there. How the store is tested, and what was measured, are pages of the repository only.

#[doc = include_str!("../docs/idempotency.md")]
pub mod idempotency {}

#[doc = include_str!("../docs/which-tool.md")]
pub mod which_tool {}

#[doc = include_str!("../docs/http.md")]
pub mod http {}

#[doc = include_str!("../docs/backends.md")]
pub mod backends {}

#[doc = include_str!("../docs/durability.md")]
pub mod durability {}

#[doc = include_str!("../docs/operations.md")]
pub mod operations {}

#[doc = include_str!("../docs/design.md")]
pub mod design {}

#[doc = include_str!("../docs/format.md")]
pub mod format {}

#[doc = include_str!("../CHANGELOG.md")]
pub mod changelog {}
