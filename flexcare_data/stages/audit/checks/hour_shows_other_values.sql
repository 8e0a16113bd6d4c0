-- Does an hour of the stored series show a variable for which no value entered in this hour, or hide one for which a
-- value did? `grid_hours` has the variables that the series marks as observed, one bit for each.
CREATE OR REPLACE TEMP VIEW checked AS
SELECT stay_id, hour, observed FROM grid_hours;

WITH entered AS (
    SELECT stay_id, hour, bit_or(1 << bit) AS variables
    FROM series_values JOIN variable_bits USING (variable) JOIN stays USING (stay_id)
    WHERE entry_hours <= los_hours + 1e-6
    GROUP BY stay_id, hour
)
SELECT checked.*, coalesce(entered.variables, 0) AS entered
FROM checked LEFT JOIN entered USING (stay_id, hour)
WHERE checked.observed <> coalesce(entered.variables, 0);
