//! The list of rooms as the app shows it: filtered, in the order of the newest activity.

use std::sync::Arc;

use futures_util::{StreamExt, pin_mut};
use matrix_sdk::Room;
use matrix_sdk_ui::{
    eyeball_im::Vector,
    room_list_service::{RoomListDynamicEntriesController, RoomListItem, filters::*},
    sync_service::SyncService,
};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{sync::oneshot, task::JoinHandle};

use crate::person::Result;

/// How many rooms are shown at once.
const PAGE: usize = 200;

#[derive(Default)]
pub struct RoomList {
    rooms: Arc<Mutex<Vector<RoomListItem>>>,
    following: Mutex<Option<(RoomListDynamicEntriesController, JoinHandle<()>)>>,
}

impl RoomList {
    /// Shows the rooms of a service from now on.
    pub async fn follow(&self, service: &SyncService) -> Result<()> {
        let list = service.room_list_service().all_rooms().await?;
        let (gives, takes) = oneshot::channel();
        let rooms = Arc::clone(&self.rooms);
        let task = tokio::spawn(async move {
            let (changes, controller) = list.entries_with_dynamic_adapters(PAGE);
            let _ = gives.send(controller);
            pin_mut!(changes);
            while let Some(changes) = changes.next().await {
                let mut rooms = rooms.lock();
                changes.into_iter().for_each(|change| change.apply(&mut rooms));
            }
        });
        let controller = takes.await?;
        controller.set_filter(Box::new(new_filter_non_left()));
        *self.following.lock() = Some((controller, task));
        Ok(())
    }

    pub fn forget(&self) {
        if let Some((_, task)) = self.following.lock().take() {
            task.abort();
        }
        self.rooms.lock().clear();
    }

    /// Shows some rooms only, as the buttons above the list do.
    pub fn filter(&self, name: &str, text: &str) -> Result<()> {
        let own: BoxedFilterFn = match name {
            "all" => Box::new(new_filter_non_left()),
            "unread" => Box::new(new_filter_unread()),
            "invites" => Box::new(new_filter_invite()),
            "favourites" => Box::new(new_filter_favourite()),
            "people" => Box::new(new_filter_category(RoomCategory::People)),
            "groups" => Box::new(new_filter_category(RoomCategory::Group)),
            "search" => Box::new(new_filter_normalized_match_room_name(text)),
            _ => return Err(format!("no filter {name}").into()),
        };
        let filters: Vec<BoxedFilterFn> = vec![Box::new(new_filter_non_left()), own];
        let following = self.following.lock();
        let (controller, _) = following.as_ref().ok_or("the list is not shown")?;
        controller.set_filter(Box::new(new_filter_all(filters)));
        Ok(())
    }

    /// What the list shows.
    pub async fn shown(&self) -> Result<Vec<Value>> {
        let rooms: Vec<_> = self.rooms.lock().iter().map(|item| (**item).clone()).collect();
        let mut shown = Vec::with_capacity(rooms.len());
        for room in rooms {
            shown.push(row(&room).await?);
        }
        Ok(shown)
    }
}

async fn row(room: &Room) -> Result<Value> {
    let counts = room.unread_notification_counts();
    Ok(json!({
        "id": room.room_id(),
        "name": room.display_name().await?.to_string(),
        "messages": room.num_unread_messages(),
        "notifications": room.num_unread_notifications(),
        "mentions": room.num_unread_mentions(),
        "counted": [counts.notification_count, counts.highlight_count],
        "direct": room.is_direct().await?,
        "encrypted": room.encryption_state().is_encrypted(),
        "members": [room.joined_members_count(), room.invited_members_count()],
        "heroes": room.heroes().into_iter().map(|hero| hero.user_id).collect::<Vec<_>>(),
    }))
}
