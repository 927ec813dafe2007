//! How the outside is reached: adapters behind the ports of the application.
//!
//! | module | holds |
//! |---|---|
//! | [`audit`] | the log, proved: verification, signed checkpoints, bundles |
//! | [`charges`] | what accounts were charged, and the notes on it |
//! | [`client_requests`] | what clients asked for lately, for who comes back for it |
//! | [`contents`] | what events name: prompts and answers in sealed pieces, beside the log |
//! | [`database`] | the way to PostgreSQL and its migrations |
//! | [`database_clock`] | the database's time, which decides over what others made |
//! | [`due_grants`] | grants whose time is over |
//! | [`embedded_postgres`] | the private PostgreSQL that `aihub` brings along |
//! | [`event_store`] | the event log: writer, reader, chain, subscriptions, the cqrs-es stores |
//! | [`job_news`] | what happens to videos and workflows, told to whoever waits for it |
//! | [`json_rows`] | many rows as one parameter of a statement, in JSON |
//! | [`kafka`] | events on their way to Kafka, and back into views |
//! | [`leadership`] | work that one node at a time does |
//! | [`leases`] | whose that is, and until when |
//! | [`media`] | videos and thumbnails: taken in, kept, and served by URLs that end |
//! | [`nodes`] | which processes are alive, and what they run with |
//! | [`notices`] | what operators are told besides whether a node is ready |
//! | [`open_files`] | how many files and sockets there may be |
//! | [`open_workflows`] | the workflows, and which of them have not ended |
//! | [`orphaned_requests`] | open requests, and which of them nobody drives |
//! | [`os_user`] | who runs this process |
//! | [`providers`] | OpenAI, Anthropic, and every server that speaks one of their formats |
//! | [`roles`] | who may do what in the database |
//! | [`rows`] | many rows as one parameter of a statement, in binary |
//! | [`seats`] | queues that are no longer than they may be, whoever asks at the same time |
//! | [`secret_file`] | secrets of a node that nobody configured any for |
//! | [`simulated_providers`] | a real HTTP server that speaks those formats, for tests, demos and benchmarks |
//! | [`standard_webhooks`] | signatures of webhooks, ours and others' |
//! | [`vault`] | content sealed per subject, and the subjects' keys |
//! | [`video_providers`] | `/v1/videos` as OpenAI had it, Google's Veo, xAI |
//! | [`video_queue`] | the video jobs that have not ended, and the media that is kept |
//! | [`webhooks`] | what clients are told over HTTP |

pub mod audit;
pub mod charges;
pub mod client_requests;
pub mod contents;
pub mod database;
pub mod database_clock;
pub mod due_grants;
pub mod embedded_postgres;
pub mod event_store;
pub mod job_news;
pub mod json_rows;
pub mod kafka;
pub mod leadership;
pub mod leases;
pub mod media;
pub mod nodes;
pub mod notices;
pub mod open_files;
pub mod open_workflows;
pub mod orphaned_requests;
pub mod os_user;
pub mod providers;
pub mod roles;
pub mod rows;
pub mod seats;
pub mod secret_file;
pub mod simulated_providers;
pub mod standard_webhooks;
pub mod vault;
pub mod video_providers;
pub mod video_queue;
pub mod webhooks;
