//! The documents hold: their links lead somewhere, their examples are right, and what they list as a
//! reference is what the code has.

mod examples;
mod figures;
mod glossary;
mod links;
mod migrate;
mod monitoring;
mod openapi;
mod page;
mod quotes;
mod reference;
mod status;
