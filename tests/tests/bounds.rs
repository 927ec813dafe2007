mod connections;
mod faults;
mod frames;
mod kept;
mod polls;
mod reports;
mod slow;
