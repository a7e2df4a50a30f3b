INSERT INTO notes (text) VALUES ('Welcome. This note came with a migration.');
INSERT INTO notes (text) VALUES ('Notes live outside the source tree, so a refresh never touches them.');
