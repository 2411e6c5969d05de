-- +goose Up
CREATE TABLE thing (n int NOT NULL);
