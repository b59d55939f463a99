SELECT id, name, ssn FROM customers ORDER BY id;
DROP TABLE customers;
UPDATE orders SET paid = true;
UPDATE orders SET paid = true WHERE id = 2;
SELECT id, item, paid FROM orders ORDER BY id;
