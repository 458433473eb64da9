//! Connections of diesel-async and SeaORM, for claims in their transactions: copy what you need.

pub mod diesel_async_connection;
pub mod sea_orm_connection;
