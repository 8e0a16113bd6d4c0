-- Does an hour of the stored series show a variable for which no value entered in this hour, or hide one for which a
-- value did? One bit for each variable.
CREATE OR REPLACE TEMP VIEW checked AS
SELECT stay_id, hour, variables AS shown FROM shown_hours;

SELECT checked.*, coalesce(variables, 0) AS entered
FROM checked LEFT JOIN entered_hours USING (stay_id, hour)
WHERE shown <> coalesce(variables, 0);
