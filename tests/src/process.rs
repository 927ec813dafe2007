//! The service as a process of its own.

use std::{fs, net::SocketAddr, process::Stdio};

use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::timeout,
};

use crate::PATIENCE;

/// Killed when it is dropped.
pub struct Process {
    pub address: SocketAddr,
    child: Child,
}

impl Process {
    /// Runs `program` with nothing but `variables` in its environment, until it says where it listens.
    pub async fn start(program: &str, variables: &[(String, String)]) -> Self {
        Self::start_with(program, &[], variables).await
    }

    pub async fn start_with(program: &str, arguments: &[&str], variables: &[(String, String)]) -> Self {
        let mut child = Command::new(program)
            .args(arguments)
            .env_clear()
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = async {
            loop {
                let line = output.next_line().await.unwrap().expect("it lives");
                if let Some((_, url)) = line.split_once("http://") {
                    return url.split_whitespace().next().unwrap().parse().unwrap();
                }
            }
        };
        Self { address: timeout(PATIENCE, address).await.expect("it starts"), child }
    }

    /// What it has in memory now, in bytes.
    pub fn memory_bytes(&self) -> usize {
        self.status("VmRSS:")
    }

    /// The most that it ever had.
    pub fn most_memory_bytes(&self) -> usize {
        self.status("VmHWM:")
    }

    fn status(&self, name: &str) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id().expect("it runs"))).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
    }

    /// `kill -9`: it gets no chance to do anything.
    pub async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    /// `kill -TERM`.
    pub async fn terminate(&self) {
        self.signal("-TERM").await;
    }

    pub async fn signal(&self, signal: &str) {
        let id = self.child.id().expect("it runs").to_string();
        assert!(Command::new("kill").args([signal, &id]).status().await.unwrap().success());
    }

    /// Its exit code, once it has ended by itself.
    pub async fn exit_code(mut self) -> Option<i32> {
        timeout(PATIENCE, self.child.wait()).await.expect("it ends").unwrap().code()
    }
}
