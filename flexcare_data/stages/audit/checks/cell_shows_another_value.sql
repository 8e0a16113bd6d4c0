-- Does a cell of a stored series show another value than the last one that entered in its hour, show one although none
-- entered, or hide one? Each row of `grid_rows` is an hour of a stay, or of a sample whose input ends inside an hour.
CREATE OR REPLACE TEMP VIEW checked AS
SELECT task, sample_id, stay_id, until, hour FROM grid_rows;

WITH shown AS (
    SELECT task, sample_id, stay_id, hour, unnest(range(17)) AS bit, unnest(cells::DOUBLE[]) AS cell,
        unnest(observed::BOOLEAN[]) AS observed
    FROM grid_rows
), entered AS (
    SELECT owner.task, owner.sample_id, stay_id, hour, bit, arg_max(cell, (entry_hours, charted_hours)) AS cell
    FROM (SELECT task, sample_id, stay_id, until, min(hour) AS first_hour FROM grid_rows GROUP BY ALL) AS owner
    JOIN series_cells USING (stay_id) JOIN variables USING (variable)
    WHERE hour >= first_hour
      AND CASE WHEN (SELECT setting = 'left' FROM options WHERE name = 'edges') THEN entry_hours < until
          ELSE entry_hours <= until + 1e-6 END
    GROUP BY ALL
)
SELECT coalesce(shown.task, entered.task) AS task, coalesce(shown.sample_id, entered.sample_id) AS sample_id,
    coalesce(shown.stay_id, entered.stay_id) AS stay_id, coalesce(shown.hour, entered.hour) AS hour,
    coalesce(shown.bit, entered.bit) AS bit, shown.cell AS shown, entered.cell AS entered
FROM (SELECT * FROM shown WHERE observed) AS shown
FULL JOIN entered ON shown.stay_id = entered.stay_id AND shown.hour = entered.hour AND shown.bit = entered.bit
    AND shown.sample_id IS NOT DISTINCT FROM entered.sample_id
-- What enters in the last hour of a stay whose length is not whole may lie after its last row.
WHERE shown.cell IS DISTINCT FROM entered.cell
  AND (shown.stay_id IS NOT NULL OR EXISTS (
      SELECT 1 FROM grid_rows WHERE grid_rows.stay_id = entered.stay_id AND grid_rows.hour = entered.hour
          AND grid_rows.sample_id IS NOT DISTINCT FROM entered.sample_id));
