"""Asks for half a gigabyte, reads one row, and then takes its time."""

import sys
import time

import psycopg

with psycopg.connect(autocommit=True) as db:
    with db.cursor() as cur:
        sql = "SELECT p.label, repeat('x', 1000) FROM plain p, generate_series(1, 50) g"
        for row in cur.stream(sql):
            print("first row", flush=True)
            time.sleep(600)
