-- Times are Unix seconds. Ids and positions are never used twice, which is what settlements are fenced by.
CREATE TABLE IF NOT EXISTS unimq_format (version INTEGER NOT NULL);
INSERT INTO unimq_format SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM unimq_format);
CREATE TABLE IF NOT EXISTS unimq_destinations (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL,               -- queue or topic
    name TEXT NOT NULL,
    policy TEXT NOT NULL,             -- JSON
    topic TEXT,                       -- of which this queue is a subscription
    UNIQUE (kind, name)
);
CREATE INDEX IF NOT EXISTS unimq_subscriptions ON unimq_destinations (topic) WHERE topic IS NOT NULL;
CREATE TABLE IF NOT EXISTS unimq_receivers (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    queue INTEGER NOT NULL,
    alive_until REAL NOT NULL         -- pushed on by heartbeats
);
CREATE TABLE IF NOT EXISTS unimq_messages (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    queue INTEGER NOT NULL,
    lane TEXT,                        -- the key, where the queue is ordered by it
    waits INTEGER NOT NULL,           -- behind the head of its lane
    ready_at REAL NOT NULL,
    receiver INTEGER,                 -- who holds it
    lease_until REAL,                 -- of the last one who held it, if the queue declares a lease
    attempts INTEGER NOT NULL DEFAULT 0,
    key TEXT,
    headers BLOB,                     -- MessagePack: text and bytes keep their types
    id TEXT NOT NULL,
    content_type TEXT,
    correlation_id TEXT,
    reply_to TEXT,
    sent_at REAL NOT NULL,
    expires_at REAL,
    body BLOB NOT NULL                -- last, so that the others are read without it
);
CREATE INDEX IF NOT EXISTS unimq_ready ON unimq_messages (queue, ready_at, position) WHERE receiver IS NULL AND waits = 0;
CREATE INDEX IF NOT EXISTS unimq_of_queue ON unimq_messages (queue, receiver, position);
CREATE INDEX IF NOT EXISTS unimq_held ON unimq_messages (receiver) WHERE receiver IS NOT NULL;
CREATE INDEX IF NOT EXISTS unimq_leases ON unimq_messages (queue, lease_until) WHERE receiver IS NOT NULL;
CREATE INDEX IF NOT EXISTS unimq_lanes ON unimq_messages (queue, lane, position) WHERE lane IS NOT NULL;
-- The head of a lane blocks it, wherever the head is, until it is deleted; then the next one becomes the head.
CREATE TRIGGER IF NOT EXISTS unimq_next_of_lane AFTER DELETE ON unimq_messages WHEN OLD.lane IS NOT NULL AND OLD.waits = 0
BEGIN
    UPDATE unimq_messages SET waits = 0 WHERE position =
        (SELECT min(position) FROM unimq_messages WHERE queue = OLD.queue AND lane = OLD.lane);
END;
