//! What a real ZooKeeper holds is what a watcher publishes and a proxy routes to, whatever becomes
//! of servers, connections and sessions; and who signs in there stays signed in.

mod faults;
mod registering;
mod watching;
