//! The client of the person and what it holds open: its sync, its room list, its timelines.

use std::{collections::HashMap, path::PathBuf, sync::Arc};

use matrix_sdk::{
    Client, Room, ThreadingSupport,
    authentication::matrix::MatrixSession,
    encryption::{BackupDownloadStrategy, EncryptionSettings},
    event_handler::EventHandlerDropGuard,
    reqwest::Certificate,
    ruma::{OwnedRoomId, OwnedUserId, RoomId},
};
use matrix_sdk_ui::{
    room_list_service::State,
    sync_service::SyncService,
    timeline::{RoomExt, Timeline},
};
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::task::JoinHandle;

use crate::room_list::RoomList;

pub type Error = Box<dyn std::error::Error + Send + Sync>;
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// How the client is set up.
#[derive(Deserialize)]
pub struct Settings {
    pub url: String,
    /// Where the store is.
    pub folder: PathBuf,
    /// The certificate that is trusted beside those of the system.
    pub authority: PathBuf,
}

/// Somebody at a client, or with the app closed.
pub struct Person {
    settings: Settings,
    open: tokio::sync::Mutex<Option<Arc<App>>>,
    session: Mutex<Option<MatrixSession>>,
}

/// The open app.
pub struct App {
    pub client: Client,
    pub list: RoomList,
    /// One message at a time, so that it is known which was sent.
    pub sending: tokio::sync::Mutex<()>,
    sync: tokio::sync::Mutex<Option<Arc<SyncService>>>,
    rooms: tokio::sync::Mutex<HashMap<OwnedRoomId, Arc<Opened>>>,
}

/// A room that the person looks at.
pub struct Opened {
    pub room: Room,
    pub timeline: Timeline,
    typing: Arc<Mutex<Vec<OwnedUserId>>>,
    _guard: EventHandlerDropGuard,
    task: JoinHandle<()>,
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Person {
    pub fn new(settings: Settings) -> Self {
        Self { settings, open: Default::default(), session: Default::default() }
    }

    /// The open app; it is opened if it is closed.
    pub async fn app(&self) -> Result<Arc<App>> {
        let mut open = self.open.lock().await;
        if let Some(app) = &*open {
            return Ok(Arc::clone(app));
        }
        let app = Arc::new(App::new(self.client().await?));
        let session = self.session.lock().clone();
        if let Some(session) = session {
            app.client.restore_session(session).await?;
        }
        *open = Some(Arc::clone(&app));
        Ok(app)
    }

    async fn client(&self) -> Result<Client> {
        let authority = Certificate::from_pem(&std::fs::read(&self.settings.authority)?)?;
        let encryption = EncryptionSettings {
            auto_enable_cross_signing: true,
            backup_download_strategy: BackupDownloadStrategy::AfterDecryptionFailure,
            auto_enable_backups: false,
        };
        let client = Client::builder()
            .homeserver_url(&self.settings.url)
            .sqlite_store(&self.settings.folder, None)
            .add_root_certificates(vec![authority])
            .with_encryption_settings(encryption)
            .with_threading_support(ThreadingSupport::Enabled { with_subscriptions: true })
            .build();
        Ok(client.await?)
    }

    /// Keeps the session for when the app is opened again.
    pub fn keep(&self, app: &App) -> Result<MatrixSession> {
        let session = app.client.matrix_auth().session().ok_or("nobody is logged in")?;
        *self.session.lock() = Some(session.clone());
        Ok(session)
    }

    /// Closes the app; what it knows stays in its store.
    pub async fn pause(&self) {
        if let Some(app) = self.open.lock().await.take() {
            app.close().await;
        }
    }
}

impl App {
    fn new(client: Client) -> Self {
        Self {
            client,
            list: RoomList::default(),
            sending: Default::default(),
            sync: Default::default(),
            rooms: Default::default(),
        }
    }

    /// Syncs, and returns when the server has answered.
    pub async fn start(&self) -> Result<()> {
        let mut sync = self.sync.lock().await;
        if sync.is_none() {
            let service = Arc::new(SyncService::builder(self.client.clone()).with_offline_mode().build().await?);
            self.list.follow(&service).await?;
            *sync = Some(service);
        }
        let service = sync.as_ref().expect("it was made");
        let mut state = service.room_list_service().state();
        service.start().await;
        while !matches!(state.get(), State::Running) {
            state.next().await.ok_or("the room list ended")?;
        }
        Ok(())
    }

    /// Stops to sync, as an app in the background.
    pub async fn stop(&self) {
        if let Some(service) = &*self.sync.lock().await {
            service.stop().await;
        }
    }

    async fn close(&self) {
        self.stop().await;
        self.list.forget();
        self.rooms.lock().await.clear();
        *self.sync.lock().await = None;
    }

    /// The sync service, once it was started.
    pub async fn service(&self) -> Result<Arc<SyncService>> {
        Ok(self.sync.lock().await.clone().ok_or("the app does not sync")?)
    }

    /// The state of the sync service.
    pub async fn sync_state(&self) -> Option<String> {
        let sync = self.sync.lock().await;
        let state = sync.as_ref()?.state().get();
        Some(format!("{state:?}").split('(').next().unwrap_or_default().to_owned())
    }

    pub fn room(&self, id: &str) -> Result<Room> {
        let id = RoomId::parse(id)?;
        Ok(self.client.get_room(&id).ok_or_else(|| format!("room {id} is not known yet"))?)
    }

    /// Looks at a room: its timeline is loaded, and the sync subscribes to all rooms that are looked at.
    pub async fn open(&self, id: &str) -> Result<Arc<Opened>> {
        let mut rooms = self.rooms.lock().await;
        let room = self.room(id)?;
        if let Some(opened) = rooms.get(room.room_id()) {
            return Ok(Arc::clone(opened));
        }
        let timeline = room.timeline().await?;
        let typing = Arc::<Mutex<Vec<_>>>::default();
        let (guard, mut typists) = room.subscribe_to_typing_notifications();
        let task = tokio::spawn({
            let typing = Arc::clone(&typing);
            async move {
                while let Ok(users) = typists.recv().await {
                    *typing.lock() = users;
                }
            }
        });
        let opened = Arc::new(Opened { room: room.clone(), timeline, typing, _guard: guard, task });
        rooms.insert(room.room_id().to_owned(), Arc::clone(&opened));
        if let Some(service) = &*self.sync.lock().await {
            let ids: Vec<_> = rooms.keys().map(|id| &**id).collect();
            service.room_list_service().subscribe_to_rooms(&ids).await;
        }
        Ok(opened)
    }

    /// The rooms that are looked at.
    pub async fn opened(&self) -> Vec<Arc<Opened>> {
        self.rooms.lock().await.values().cloned().collect()
    }
}

impl Opened {
    pub fn typing(&self) -> Vec<OwnedUserId> {
        self.typing.lock().clone()
    }
}
