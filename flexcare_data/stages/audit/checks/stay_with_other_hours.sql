-- Has a stay more or fewer rows in its series than its length has hours?
CREATE OR REPLACE TEMP VIEW checked AS
SELECT stay_id, n_hours FROM hourly;

SELECT checked.*, los_hours
FROM checked LEFT JOIN stays USING (stay_id)
WHERE coalesce(n_hours <> greatest(trunc(los_hours + 1 - 1e-6), 0), true);
