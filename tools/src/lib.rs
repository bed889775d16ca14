//! File work for Penstock: the directory stores and what is done with the objects in them. All of it
//! blocks; the server calls [`store`] from where blocking is allowed, and the rest is for the command line.

pub mod store;
