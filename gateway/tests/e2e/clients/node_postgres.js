// node-postgres: simple and extended queries, named statements, text results.

const assert = require("node:assert");
const { Client } = require("pg");

async function main() {
  const db = new Client({ ssl: false });
  await db.connect();

  assert.strictEqual((await db.query("SELECT 1 AS one")).rows[0].one, 1);
  const named = await db.query("SELECT name FROM customers WHERE id = $1", [2]);
  assert.strictEqual(named.rows[0].name, "Grace Hopper");
  for (let n = 1; n <= 50; n++) {
    const result = await db.query({
      name: "label",
      text: "SELECT label FROM plain WHERE id = $1",
      values: [n],
    });
    assert.strictEqual(result.rows[0].label, `label ${n}`);
  }

  const masked = await db.query("SELECT id, ssn FROM customers WHERE id = $1", [1]);
  assert.deepStrictEqual(masked.rows, [{ id: 1, ssn: "*******6789" }]);
  const binary = await db.query({
    text: "SELECT ssn FROM customers WHERE id = $1",
    values: [1],
    binary: true,
  });
  assert.strictEqual(String(binary.rows[0].ssn), "*******6789");

  // Many queries at once: the driver queues them.
  const many = await Promise.all(
    Array.from({ length: 50 }, (_, n) => db.query("SELECT $1::int AS n", [n])),
  );
  assert.deepStrictEqual(many.map((r) => r.rows[0].n), Array.from({ length: 50 }, (_, n) => n));

  const denied = (sql, code, values) =>
    assert.rejects(db.query(sql, values), (e) => e.code === code);
  await denied("DROP TABLE customers", "42501");
  await denied("DROP TABLE customers", "42501", []);
  assert.strictEqual((await db.query("SELECT 2 AS two")).rows[0].two, 2);

  await db.query("BEGIN");
  await db.query("INSERT INTO scratch VALUES ($1, $2)", [5000, "gone"]);
  await denied("DROP TABLE customers", "42501");
  await denied("SELECT 3", "25P02");
  await db.query("ROLLBACK");
  const gone = await db.query("SELECT count(*)::int AS n FROM scratch WHERE id = 5000");
  assert.strictEqual(gone.rows[0].n, 0);

  await db.end();
  console.log("ok");
}

main().catch((e) => {
  console.error(e);
  process.exit(1);
});
